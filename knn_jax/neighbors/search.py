"""Exact nearest-neighbour search on one device or on many."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, Int, Num

from knn_jax.neighbors import sharded, tiles
from knn_jax.neighbors.distances import Name, Subspaces, named
from knn_jax.neighbors.metric import Metric, check_metric
from knn_jax.neighbors.plan import Eligible, Plan, floating
from knn_jax.neighbors.precision import Coarse, check_coarse
from knn_jax.neighbors.result import Neighbors
from knn_jax.neighbors.sharded import Sharded, check_held, check_rows
from knn_jax.neighbors.two_stage import nearest


def search(
    query: Num[Array | np.ndarray, "query dim"],
    bank: Num[Array | np.ndarray, "row dim"] | Sharded,
    k: int,
    *,
    metric: Metric | Name = "l2",
    coarse: Coarse | None = None,
    labels: Int[Array, " row"] | None = None,
    only: Int[Array, "query *group"] | None = None,
    without: Int[Array, " query"] | None = None,
) -> Neighbors:
    """The k rows of `bank` nearest to each query, exactly.

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
    gradient at q = b); indices carry none. Memory is one tile of scores beside O(query x k). Under
    `vmap` all ways run for every query: pass a batch instead.

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
    check(query, bank, k, metric, labels, only, without)
    if isinstance(bank, Sharded) and not (only is None and without is None):
        labels = bank.labels if labels is None else labels[jnp.maximum(bank.index, 0)]
    return _search(metric, coarse, query, bank, k, Eligible(labels, only, without))


@functools.partial(jax.jit, static_argnums=(0, 1, 4), inline=True)  # a caller's program stays as it was
def _search(metric, coarse, query, bank, k, eligible):
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
    distance, index = nearest(*lax.stop_gradient((query, bank)), eligible, plan)
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


def check_integers(name: str, array: Array | np.ndarray | Sharded, dtype: DTypeLike) -> None:
    """Raises ValueError for integers that the floating type cannot hold."""
    exact = 2 ** (jnp.finfo(dtype).nmant + 1)
    if not jnp.issubdtype(array.dtype, jnp.integer) or np.iinfo(array.dtype).max <= exact:
        return
    cast = f"{name} is {array.dtype}, and distances are {dtype}"
    if isinstance(array, Tracer | Sharded):
        raise ValueError(f"{cast}: in a jit or over devices, cast it to {dtype} if it fits")
    array = np.asarray(array)
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if max(-low, high) > exact:
        raise ValueError(f"{cast}: {max(-low, high)} is above {exact}, up to which integers are exact")


def check(query, bank, k, metric, labels, only, without) -> None:
    """Raises ValueError for what cannot be answered."""
    rows = bank.shape[0]
    if rows == 0:
        raise ValueError("the bank is empty: give it at least one row")
    check_rows(rows)
    if not 1 <= k <= rows:
        raise ValueError(f"k={k} neighbours asked of a bank of {rows} rows: use 1 to {rows}")
    if query.ndim != 2 or len(bank.shape) != 2 or query.shape[1] != bank.shape[1]:
        raise ValueError(
            f"query {query.shape} and bank {bank.shape} must be (query, dim) and (row, dim) of one dim"
        )
    if not query.shape[1]:
        raise ValueError(f"query {query.shape} and bank {bank.shape}: no dimension to measure")
    for name, array in (("query", query), ("bank", bank)):
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            raise ValueError(f"{name} is {array.dtype}: give real numbers")
        check_integers(name, array, floating(query, bank))
    check_metric(metric, query.shape[1])
    if isinstance(metric, Subspaces) and query.shape[1] % metric.count:
        raise ValueError(f"{query.shape[1]} dimensions are no multiple of {metric.count} subspaces")
    everyone = only is None and without is None
    own = isinstance(bank, Sharded) and bank.labels is not None
    if (everyone and labels is not None) or not (everyone or own or labels is not None):
        raise ValueError("labels go with only= or without=, and those with labels")
    if only is not None and without is not None:
        raise ValueError("only= and without= exclude each other: give one of them")
    if labels is not None and labels.shape != (rows,):
        raise ValueError(f"labels of shape {labels.shape}: one for each of {rows} rows needed")
    for name, asked in (("labels", labels), ("only", only), ("without", without)):
        check_held(name, asked)
        if name != "labels" and asked is not None and asked.shape[:1] != query.shape[:1]:
            raise ValueError(
                f"{name} of shape {asked.shape}: one for each of {len(query)} queries needed"
            )
