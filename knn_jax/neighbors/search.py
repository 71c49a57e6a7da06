"""Exact nearest-neighbour search on one device or on many."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Num

from knn_jax.neighbors import sharded, tiles
from knn_jax.neighbors.batched import batched
from knn_jax.neighbors.distances import Name, named
from knn_jax.neighbors.inputs import check, read_eligible
from knn_jax.neighbors.metric import Metric
from knn_jax.neighbors.padded import padded
from knn_jax.neighbors.plan import Eligible, Plan, floating
from knn_jax.neighbors.precision import Coarse, check_coarse
from knn_jax.neighbors.result import Neighbors
from knn_jax.neighbors.sharded import Sharded
from knn_jax.neighbors.two_stage import nearest
from knn_jax.values import given
from knn_jax.values.given import Lists, Whole


def search(
    query: Num[Array | np.ndarray, "*query dim"] | Lists,
    bank: Num[Array | np.ndarray, "row dim"] | Sharded | Lists,
    k: Whole,
    *,
    metric: Metric | Name = "l2",
    coarse: Coarse | None = None,
    labels: Num[Array | np.ndarray, " row"] | Lists | None = None,
    only: Num[Array | np.ndarray, "*query_group"] | Lists | Whole | None = None,
    without: Num[Array | np.ndarray, "*query"] | Lists | Whole | None = None,
) -> Neighbors:
    """The k rows of `bank` nearest to each query, exactly.

    Arrays may also be lists. Of one query as a vector the answers are of shape (k,), with `only` of
    shape (group,) of (group, k). `k` is part of the program: within `jit` it must be a Python number.

    `metric` is one of this package, as `Subspaces(2)`, or one of your own, of which nothing is needed
    but its `distance` (see `Metric`); `l2`, `squared_l2`, `cosine`, `inner_product` (negative, so that
    less is nearer) and `linf` are names of metrics. With row `labels`, `only` restricts each query to
    the rows of one label (or, shaped (query, group), searches several labels in one pass over the bank)
    and `without` leaves one label out; `labels=arange(rows)` makes that leave-one-out.

    The page of `knn_jax.neighbors` explains the search. Rows at the same floating-point distance come
    lower row first, whatever the tile, batch or device (the last bits of a distance may differ from one
    program to another). `coarse` makes the matmul of a lower precision with a wider bound: the same
    answers, sooner on matrix units. A bank from `shard` is searched on all its devices at once, its own
    labels serving `only` and `without`. Distances are differentiable in `query` and `bank` (zero
    gradient at q = b); indices carry none. Memory is one tile of scores beside O(query x k). Queries
    that a caller maps by `vmap` are searched as one batch, and mapped banks one after the other.

    Numbers: distances are float32, or float64 if x64 is on and either input is float64. With x64 off
    JAX rounds float64 to float32 before the search sees it. Integers of 8 and 16 bits, float16 and
    bfloat16 are searched exactly as stored, converted tile by tile (but XLA's CPU backend widens all of
    a bfloat16 bank). Wider integers must be at most 2^24 in size, or 2^53 beside float64. Distances
    are right wherever the type can hold them, also where their squares overflow or underflow; one that
    it cannot hold is inf and its row is not found. A row with a NaN or an infinity is nobody's
    neighbour. A query with one has no neighbours: distance inf and index -1.

    Raises ValueError for a k that the bank cannot answer, shapes that do not fit, what is no metric,
    and integers that the distance's type cannot hold, or may not because a caller's `jit` hides how
    large they are.
    """
    metric = named(metric)
    check_coarse(coarse)
    query, k = given.array("query", query), given.whole("k", k)
    bank = bank if isinstance(bank, Sharded) else given.array("bank", bank)
    eligible = read_eligible(labels, only, without)
    check(query, bank, k, metric, *eligible[:3])
    if isinstance(bank, Sharded) and not (only is None and without is None):
        of_rows = (
            bank.labels if labels is None else jnp.asarray(eligible.labels)[jnp.maximum(bank.index, 0)]
        )
        eligible = eligible._replace(labels=of_rows)
    call = (metric, coarse, k), (bank, eligible.labels), query, *eligible.each
    return padded(_search, *call) if query.ndim == 2 else _search(*call)


@functools.partial(jax.jit, static_argnums=0, inline=True)  # a caller's program stays as it was
def _search(static, others, query, only, without):
    metric, coarse, k = static
    bank, labels = others
    if query.ndim == 1:  # one query, as a vector
        one = jax.tree.map(lambda leaf: leaf[None], (query, only, without))
        return jax.tree.map(lambda leaf: leaf[0], _search(static, others, *one))
    eligible = Eligible(labels, only, without)
    part = functools.partial(search_part, metric, coarse)
    if isinstance(bank, Sharded) and len(query):
        return sharded.search_parts(part, query, bank, k, eligible)
    return part(query, bank, k, eligible)


def search_part(
    metric: Metric, coarse: Coarse | None, query, bank, k: int, eligible: Eligible
) -> Neighbors:
    """`search` on one device; `eligible` may exclude rows that only pad the bank."""
    query = query.astype(floating(query, bank))
    groups = () if eligible.only is None else eligible.only.shape[1:]
    shape = (len(query), *groups, k)
    if len(query) == 0:
        return Neighbors(jnp.zeros(shape, query.dtype), jnp.zeros(shape, jnp.int32))
    plan = Plan(k, metric, coarse or "in_place", math.prod(groups))
    finite = jnp.max(jnp.abs(query), -1) < jnp.inf
    query = jnp.where(finite[:, None], query, 0.0)  # answered below, and no work for the rest

    def found(queries, rest):
        query, only, without = queries
        bank, labels, there = rest
        return nearest(query, bank, Eligible(labels, only, without, there), plan)

    held = lax.stop_gradient(((query, *eligible.each), (bank, eligible.labels, eligible.there)))
    distance, index = batched(found)(*held)
    none = ~finite[:, None, None] | ~jnp.isfinite(distance)
    distance, index = jnp.where(none, jnp.inf, distance), jnp.where(none, -1, index)
    distance = _measured(plan, query, bank, distance, index)
    return Neighbors(distance.reshape(shape), index.reshape(shape))


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
        rows = jnp.where(index[..., None] < 0, 0, bank[index]).astype(query.dtype)
        return jnp.where(index < 0, 0.0, plan.metric.distance(query[:, None, None], rows))

    def all_again(query, bank):
        return tiles.in_tiles(lambda q, i: again(q, i, bank), each)(query, index)

    _, tangent = jax.jvp(all_again, (query, bank), tangents[:2])
    return distance, tangent
