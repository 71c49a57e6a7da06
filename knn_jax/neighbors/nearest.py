"""Exact nearest-neighbour search on one device or on many."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, Num

from knn_jax.neighbors import metrics, sharded, tiles
from knn_jax.neighbors.answer import Neighbors
from knn_jax.neighbors.passes import Eligible, Plan, floating, nearest
from knn_jax.neighbors.sharded import Sharded


def search(
    query: Num[Array, "query dim"],
    bank: Num[Array, "row dim"] | Sharded,
    k: int,
    *,
    metric: metrics.Metric | metrics.Name = "l2",
    coarse: metrics.Coarse | None = None,
    labels: Int[Array, " row"] | None = None,
    only: Int[Array, "query *group"] | None = None,
    without: Int[Array, " query"] | None = None,
) -> Neighbors:
    """The k rows of `bank` nearest to each query, exactly.

    `metric` is `l2`, `squared_l2`, `cosine`, `inner_product` (negative, so that less is nearer) or
    one of the metrics of this package, as `Subspaces(2)`. With row `labels`, `only` restricts each
    query to the rows of one label (or, shaped (query, group), searches several labels in one pass over
    the bank) and `without` leaves one label out; `labels=arange(rows)` makes that leave-one-out.

    A matmul bounds all distances from below, rounding included; the best few more than k are measured
    by sum((q - b)^2). Where a bound cannot exclude the rest, and only for such queries, all rows are
    measured. Rows at the same floating-point distance come lower row first, whatever the tile, batch
    or device. `coarse` makes the matmul of a lower precision with a wider bound: the same answers,
    sooner on matrix units. Banks of bytes or halves are converted tile by tile, so that distances are
    exact for the values stored. A bank from `shard` is searched on all its devices at once, its own
    labels serving `only` and `without`. Distances are differentiable in `query` and `bank` (zero
    gradient at q = b); indices carry none. Memory is one tile of scores beside O(query x k). Under
    `vmap` both ways run for every query: pass a batch instead.

    Raises ValueError for a k that the bank cannot answer or shapes that do not fit.
    """
    metric = metrics.NAMED[metric] if isinstance(metric, str) else metric
    if isinstance(bank, Sharded) and not (only is None and without is None):
        labels = bank.labels if labels is None else labels[jnp.maximum(bank.index, 0)]
    _check(query, bank, k, metric, labels, only, without)
    query = query.astype(floating(query, bank))
    if len(query) == 0:
        shape = (0, k) if only is None or only.ndim == 1 else (0, only.shape[1], k)
        return Neighbors(jnp.zeros(shape, query.dtype), jnp.zeros(shape, jnp.int32))

    def on_one(query, bank, k, eligible):
        each = 1 if eligible.only is None else eligible.only.size // len(query)
        plan = Plan(k, metric, coarse, each)
        key, index = nearest(*lax.stop_gradient((query, bank)), eligible, plan)
        distance = _measured(plan, query, bank, metric.distance(key), index)
        shape = (len(query), k) if only is None or only.ndim == 1 else index.shape
        return Neighbors(distance.reshape(shape), index.reshape(shape))

    eligible = Eligible(labels, only, without)
    if isinstance(bank, Sharded):
        return sharded.search_parts(on_one, query, bank, k, eligible)
    return on_one(query, bank, k, eligible)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _measured(plan, query, bank, distance, index):
    """The distances found, with the gradient of measuring them again."""
    return distance


@_measured.defjvp
def _measured_jvp(plan, primals, tangents):
    query, bank, distance, index = primals
    each = tiles.gathered(index[0].size * bank.shape[1])

    @jax.checkpoint  # a gradient gathers the neighbours again rather than keeping all of them
    def again(query, index, bank):
        rows = bank[index].astype(query.dtype)
        found = plan.metric.distance(plan.metric.key(query[:, None, None], rows))
        return jnp.where(index < 0, 0.0, found)

    def all_again(query, bank):
        return tiles.in_tiles(lambda q, i: again(q, i, bank), each)(query, index)

    _, tangent = jax.jvp(all_again, (query, bank), tangents[:2])
    return distance, tangent


def _check(query, bank, k, metric, labels, only, without):
    rows = bank.shape[0]
    if rows == 0:
        raise ValueError("the bank is empty: give it at least one row")
    if not 1 <= k <= rows:
        raise ValueError(f"k={k} neighbours asked of a bank of {rows} rows: use 1 to {rows}")
    if query.ndim != 2 or len(bank.shape) != 2 or query.shape[1] != bank.shape[1]:
        raise ValueError(
            f"query {query.shape} and bank {bank.shape} must be (query, dim) and (row, dim) of one dim"
        )
    if isinstance(metric, metrics.Subspaces) and query.shape[1] % metric.count:
        raise ValueError(f"{query.shape[1]} dimensions are no multiple of {metric.count} subspaces")
    if (labels is None) != (only is None and without is None):
        raise ValueError("labels go with only= or without=, and those with labels")
    if only is not None and without is not None:
        raise ValueError("only= and without= exclude each other: give one of them")
