"""Exact nearest-neighbour search: a tiled matmul, a proof that nothing was missed, exact distances."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Num

from knn_jax.neighbors import metrics, tiles
from knn_jax.neighbors.selection import select, slots, top_k

SAMPLE = 1024  # rows whose mean is the centre
REPAIRED = 16  # queries compared with all rows at once, where the matmul could not decide


class Neighbors(NamedTuple):
    """Nearest rows in order of distance.

    Where a query has fewer than k eligible rows the rest has distance inf and index -1.
    """

    distance: Float[Array, "query *group k"]
    index: Int[Array, "query *group k"]  # pyright: ignore[reportIncompatibleMethodOverride]


def search(
    query: Num[Array, "query dim"],
    bank: Num[Array, "row dim"],
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
    exact for the values stored. Distances are differentiable in `query` and `bank` (zero gradient at
    q = b); indices carry none. Memory is one tile of scores beside O(query x k). Under `vmap` both
    ways run for every query: pass a batch instead.

    Raises ValueError for a k that the bank cannot answer or shapes that do not fit.
    """
    metric = metrics.NAMED[metric] if isinstance(metric, str) else metric
    _check(query, bank, k, metric, labels, only, without)
    query = query.astype(_floating(query, bank))
    squeeze = only is None or only.ndim == 1
    eligible = _Eligible(labels, only, without)
    groups = 1 if only is None else only.size // max(len(query), 1)
    shape = (len(query), k) if squeeze else (len(query), groups, k)
    if len(query) == 0:
        return Neighbors(jnp.zeros(shape, query.dtype), jnp.zeros(shape, jnp.int32))

    plan = _Plan(k, metric, coarse, groups)
    key, index = _nearest(*lax.stop_gradient((query, bank)), eligible, plan)
    distance = _measured(plan, query, bank, metric.distance(key), index)
    return Neighbors(distance.reshape(shape), index.reshape(shape))


def merge(one: Neighbors, other: Neighbors, k: int) -> Neighbors:
    """The k nearest of two answers for the same queries, from different rows of a bank.

    At equal distances the lower index comes first, so pieces in any order make the same whole.
    """
    distance, index = (jnp.concatenate(pair, -1) for pair in zip(one, other, strict=True))
    last = jnp.where(index < 0, jnp.iinfo(jnp.int32).max, index)
    distance, _, index = lax.sort((distance, last, index), num_keys=2)
    return Neighbors(distance[..., :k], index[..., :k])


class _Plan(NamedTuple):
    """What is known when the program is traced."""

    k: int
    metric: metrics.Metric
    coarse: metrics.Coarse | None
    groups: int

    @property
    def kept(self) -> int:
        """Rows to be measured: more where the bounds are wider."""
        return self.k + 8 + (2 * self.k if self.coarse else self.k // 16)


class _Eligible(NamedTuple):
    """Which rows each query may find; all without labels."""

    labels: Int[Array, " row"] | None
    only: Int[Array, "query *group"] | None
    without: Int[Array, " query"] | None

    def of(self, take) -> "_Eligible":
        """For some of the queries."""
        chosen = (None if part is None else take(part) for part in (self.only, self.without))
        return _Eligible(self.labels, *chosen)

    def mask(self, first, rows: int):
        """(query, group, row) for a tile of rows; None if all are eligible."""
        if self.labels is None:
            return None
        label = lax.dynamic_slice_in_dim(self.labels, first, rows)[None, None]
        if self.without is not None:
            return label != self.without[:, None, None]
        return label == self.only.reshape(len(self.only), -1, 1)  # pyright: ignore


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _measured(plan, query, bank, distance, index):
    """The distances found, with the gradient of measuring them again."""
    return distance


@_measured.defjvp
def _measured_jvp(plan, primals, tangents):
    query, bank, distance, index = primals
    each = tiles.GATHERED // (index[0].size * bank.shape[1])

    @jax.checkpoint  # a gradient gathers the neighbours again rather than keeping all of them
    def again(query, index, bank):
        rows = bank[index].astype(query.dtype)
        found = plan.metric.distance(plan.metric.key(query[:, None, None], rows))
        return jnp.where(index < 0, 0.0, found)

    def all_again(query, bank):
        return tiles.in_tiles(lambda q, i: again(q, i, bank), max(1, each))(query, index)

    _, tangent = jax.jvp(all_again, (query, bank), tangents[:2])
    return distance, tangent


def _nearest(query, bank, eligible, plan):
    """(key, index) of the nearest rows, (query, group, k)."""
    rows, dim = bank.shape
    if slots(plan.kept, rows) * 2 > rows:  # most would be measured anyhow
        each = max(1, tiles.GATHERED // (dim * rows))
        return _by_parts(functools.partial(_directly, bank=bank, plan=plan), query, eligible, each)

    index, left = _candidates(query, bank, eligible, plan)
    each = max(1, tiles.GATHERED // (plan.groups * index.shape[-1] * dim))
    centre, _, largest = _summary(bank, plan)

    def measure(query, index, left):
        key = plan.metric.key(query[:, None, None], bank[index].astype(query.dtype))
        key = jnp.where(index < 0, jnp.inf, key)
        nearest, place = top_k(-key, plan.k)  # candidates are in order of rows: ties too
        kth = -nearest.min(-1)
        floor = plan.metric.floor(left, query, largest, centre, plan.coarse)
        certain = (left == -jnp.inf) | (floor > kth)
        index = jnp.take_along_axis(index, place, -1)
        return -nearest, jnp.where(-nearest == jnp.inf, -1, index), certain.all(-1)

    key, index, certain = tiles.in_tiles(measure, each)(query, index, left)
    return _repair(key, index, certain, query, bank, eligible, plan)


def _summary(bank, plan):
    """The centre of a sample of rows, and the metric's summary of all rows about it."""
    dtype = _floating(bank)
    step = max(1, len(bank) // SAMPLE)
    centre = bank[::step].astype(dtype).mean(0, keepdims=True)
    summary, largest = plan.metric.summary(bank.astype(dtype), centre)
    return centre, summary, largest


def _candidates(query, bank, eligible, plan):
    """Rows (query, group, slot) in ascending order that may be among the nearest, -1 for none, and
    the largest score of the others (query, group)."""
    rows, dim = bank.shape
    dtype = query.dtype
    size = tiles.row_tile(rows, dim, bank.dtype == dtype and plan.coarse is None)
    size = min(rows, max(size, 2 * slots(plan.kept, rows)))
    each = tiles.query_tile(len(query), plan.groups, size)
    centre, summary, _ = _summary(bank, plan)

    def start(number):
        return jnp.minimum(number * size, rows - size)  # the last tile overlaps

    def score(query, eligible, number):
        """(query, group, row) of a tile of rows."""
        first = start(number)
        part, of_each = bank, summary
        if size < rows:
            part = lax.dynamic_slice_in_dim(bank, first, size)
            of_each = lax.dynamic_slice_in_dim(summary, first, size)
        scores = plan.metric.scores(query, part.astype(dtype), of_each, centre, plan.coarse)
        scores = scores[:, None]
        mask = eligible.mask(first, size)
        if rows % size:
            new = (first + jnp.arange(size) >= number * size)[None, None]
            mask = new if mask is None else mask & new
        return scores if mask is None else jnp.where(mask, scores, -jnp.inf)

    def best(scores, enough=None):
        enough = None if enough is None else enough.reshape(-1)
        chosen = select(lambda: (found := scores()).reshape(-1, found.shape[-1]), plan.kept, enough)
        return tuple(leaf.reshape(-1, plan.groups, *leaf.shape[1:]) for leaf in chosen)

    def first_tile(query, eligible):
        return best(lambda: score(query, eligible, 0))

    def next_tile(query, eligible, value, index, left, number):
        new, place, beyond = best(lambda: score(query, eligible, number), left)
        value = jnp.concatenate([value, new], -1)
        index = jnp.concatenate([index, jnp.where(place < 0, -1, place + start(number))], -1)
        value, place, lost = best(lambda: value)
        index = jnp.where(place < 0, -1, jnp.take_along_axis(index, jnp.maximum(place, 0), -1))
        return value, index, jnp.maximum(beyond, lost)

    if size == rows:
        _, index, left = _by_parts(first_tile, query, eligible, each)
        return index, left

    def tile(carry, number):
        # Rows outside, queries inside: a tile of the bank is copied once.
        step = functools.partial(next_tile, number=number)
        return _by_parts(step, query, eligible, each, *carry), None

    carry = _by_parts(first_tile, query, eligible, each)
    (_, index, left), _ = lax.scan(tile, carry, jnp.arange(1, -(-rows // size), dtype=jnp.int32))
    return index, left


def _directly(query, eligible, bank, plan):
    """(key, index) by measuring every row."""
    rows, dim = bank.shape
    size = min(rows, max(1, tiles.GATHERED // (len(query) * max(dim, plan.groups))))

    def tile(carry, number):
        first = jnp.minimum(number * size, rows - size)
        part = bank if size == rows else lax.dynamic_slice_in_dim(bank, first, size)
        ids = first + jnp.arange(size, dtype=jnp.int32)
        key = plan.metric.key(query[:, None], part.astype(query.dtype)[None])[:, None]
        mask = (ids >= number * size)[None, None]
        eligible_rows = eligible.mask(first, size)
        key = jnp.where(mask if eligible_rows is None else mask & eligible_rows, key, jnp.inf)
        key = jnp.concatenate([carry[0], jnp.broadcast_to(key, (*carry[0].shape[:2], size))], -1)
        ids = jnp.concatenate([carry[1], jnp.broadcast_to(ids, (*carry[1].shape[:2], size))], -1)
        nearest, place = top_k(-key, plan.k)  # the lower row first among equals
        return (-nearest, jnp.take_along_axis(ids, place, -1)), None

    # Made from the query, so that under shard_map the carry varies as the tiles do.
    nothing = jnp.full((len(query), plan.groups, plan.k), jnp.inf) + 0 * query[:, :1, None]
    carry = nothing, jnp.full(nothing.shape, -1, jnp.int32) + 0 * query[:, :1, None].astype(jnp.int32)
    (key, index), _ = lax.scan(tile, carry, jnp.arange(-(-rows // size), dtype=jnp.int32))
    return key, jnp.where(key == jnp.inf, -1, index)


def _repair(key, index, certain, query, bank, eligible, plan):
    """Measures every row for the queries that are not certain, a few at a time."""
    count = len(query)
    few = min(REPAIRED, count)

    def some(state):
        key, index, certain = state
        (which,) = jnp.nonzero(~certain, size=few, fill_value=count)

        def take(leaf):
            return leaf.at[which].get(mode="clip")

        found = _directly(take(query), eligible.of(take), bank, plan)
        key, index = (
            leaf.at[which].set(new, mode="drop") for leaf, new in zip((key, index), found, strict=True)
        )
        return key, index, certain.at[which].set(True, mode="drop")

    def repaired():
        return lax.while_loop(lambda state: ~state[2].all(), some, (key, index, certain))[:2]

    # The condition keeps XLA from doing what does not change in the loop before it, for nobody.
    return lax.cond(certain.all(), lambda: (key, index), repaired)


def _by_parts(function, query, eligible, each, *carry):
    """`function(query, eligible, *carry)` for at most `each` queries at a time."""

    def part(query, only, without, *carry):
        return function(query, _Eligible(eligible.labels, only, without), *carry)

    return tiles.in_tiles(part, each)(query, eligible.only, eligible.without, *carry)


def _floating(*arrays: Any):
    """The type of distances: float64 if any of the arrays is, else float32."""
    wide = any(array.dtype == jnp.float64 for array in arrays)
    return jnp.dtype(jnp.float64 if wide else jnp.float32)


def _check(query, bank, k, metric, labels, only, without):
    rows = bank.shape[0]
    if rows == 0:
        raise ValueError("the bank is empty: give it at least one row")
    if not 1 <= k <= rows:
        raise ValueError(f"k={k} neighbours asked of a bank of {rows} rows: use 1 to {rows}")
    if query.ndim != 2 or bank.ndim != 2 or query.shape[1] != bank.shape[1]:
        raise ValueError(
            f"query {query.shape} and bank {bank.shape} must be (query, dim) and (row, dim) of one dim"
        )
    if isinstance(metric, metrics.Subspaces) and query.shape[1] % metric.count:
        raise ValueError(f"{query.shape[1]} dimensions are no multiple of {metric.count} subspaces")
    if (labels is None) != (only is None and without is None):
        raise ValueError("labels go with only= or without=, and those with labels")
    if only is not None and without is not None:
        raise ValueError("only= and without= exclude each other: give one of them")
