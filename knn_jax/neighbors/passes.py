"""A matmul that bounds all distances, a proof that nothing was missed, and exact distances."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from knn_jax.neighbors import metrics, tiles
from knn_jax.neighbors.answer import Neighbors, ordered
from knn_jax.neighbors.selection import select, slots, top_k

SAMPLE = 1024  # rows whose mean is the centre
CENTRED = 64  # queries scored about the centre at once, where the rows in place could not decide
REPAIRED = 16  # queries compared with all rows at once, where no matmul could


class Plan(NamedTuple):
    """What is known when the program is traced."""

    k: int
    metric: metrics.Metric
    mode: metrics.Mode
    groups: int

    @property
    def kept(self) -> int:
        """Rows to be measured: more where the bounds are wider, or did not do."""
        spare = {"in_place": 8 + self.k // 16, "centred": 64 + self.k}
        return self.k + spare.get(self.mode, 8 + 2 * self.k)


class Eligible(NamedTuple):
    """Which rows each query may find; all without labels."""

    labels: Int[Array, " row"] | None = None
    only: Int[Array, "query *group"] | None = None
    without: Int[Array, " query"] | None = None
    there: Bool[Array, " row"] | None = None  # False where a shard is only padded

    @property
    def each(self) -> tuple:
        """What belongs to the queries, one entry for each of them."""
        return self.only, self.without

    def of(self, each: tuple) -> "Eligible":
        """The same for other queries."""
        return self._replace(only=each[0], without=each[1])

    def mask(self, first, rows: int, new):
        """(query, group, row) for a tile of rows, of which some may not be `new`; None if all are
        eligible."""
        mask = None if new is None else new[None, None]
        if self.labels is not None:
            label = lax.dynamic_slice_in_dim(self.labels, first, rows)[None, None]
            if self.without is not None:
                wanted = label != self.without[:, None, None]
            else:
                wanted = label == self.only.reshape(len(self.only), -1, 1)  # pyright: ignore
            mask = wanted if mask is None else mask & wanted
        if self.there is not None:
            there = lax.dynamic_slice_in_dim(self.there, first, rows)[None, None]
            mask = there if mask is None else mask & there
        return mask


def nearest(query, bank, eligible, plan):
    """The nearest rows, (query, group, k)."""
    rows, dim = bank.shape
    if slots(plan.kept, rows) * 2 > rows:  # most would be measured anyhow
        each = max(1, tiles.MEASURED // (dim * rows))
        return _by_parts(functools.partial(_directly, bank=bank, plan=plan), query, eligible, each)

    centre, summary = _summary(bank, plan)

    def measure(query, index):
        found = plan.metric.distance(query[:, None, None], bank[index].astype(query.dtype))
        return ordered(Neighbors(jnp.where(index < 0, jnp.inf, found), index), plan.k)

    def bounded(plan, query, eligible):
        """Candidates, the nearest of these, and for which queries they are the nearest of all."""
        index, left = _candidates(query, bank, eligible, plan, centre, summary)

        def prove(query, index, left):
            near = measure(query, index)
            floor = plan.metric.floor(left, query, centre, plan.mode)
            return near, ((left == -jnp.inf) | (floor > near.distance.max(-1))).all(-1)

        each = tiles.gathered(plan.groups * index.shape[-1] * dim)
        near, certain = tiles.in_tiles(prove, each)(query, index, left)
        return index, near, certain

    index, near, certain = bounded(plan, query, eligible)

    def about_centre(query, eligible):
        _, found, sure = bounded(plan._replace(mode="centred"), query, eligible)
        return found.index, sure

    def directly(query, eligible):
        return _directly(query, eligible, bank, plan).index, jnp.ones(len(query), bool)

    def repaired():
        found = index, certain
        if dim > metrics.BLOCK:  # of few dimensions the bounds are narrow, and all rows soon measured
            found = _repair(about_centre, CENTRED, *found, query, eligible)
        found, _ = _repair(directly, REPAIRED, *found, query, eligible)
        # Measured again by the same steps: others may round otherwise, and equal rows would not tie.
        each = tiles.gathered(plan.groups * index.shape[-1] * dim)
        return tiles.in_tiles(measure, each)(query, found)

    # The condition keeps XLA from doing what does not change in a loop before it, for nobody.
    return lax.cond(certain.all(), lambda: near, repaired)


def _summary(bank, plan):
    """The centre of a sample of rows, and the metric's summary of all rows about it."""
    dtype = floating(bank)
    step = max(1, len(bank) // SAMPLE)
    centre = bank[::step].astype(dtype).mean(0, keepdims=True)
    rows, dim = bank.shape
    if bank.dtype == dtype:
        return centre, plan.metric.summary(bank, centre)

    # A tile at a time: XLA would convert the whole bank first.
    size = tiles.row_tile(rows, dim, False)

    def tile(number):
        first, _ = tiles.span(number, size, rows)
        part = lax.dynamic_slice_in_dim(bank, first, size)
        return first, plan.metric.summary(part.astype(dtype), centre)

    def next_tile(summary, number):
        first, part = tile(number)
        return lax.dynamic_update_slice_in_dim(summary, part, first, 0), None

    _, part = tile(0)
    summary = jnp.zeros((rows, *part.shape[1:]), dtype).at[:size].set(part)
    numbers = jnp.arange(1, -(-rows // size), dtype=jnp.int32)
    return centre, lax.scan(next_tile, summary, numbers)[0]


def _candidates(query, bank, eligible, plan, centre, summary):
    """Rows (query, group, slot) that may be among the nearest, -1 for none, and the largest score of
    the others (query, group)."""
    rows, dim = bank.shape
    size = tiles.row_tile(rows, dim, bank.dtype == query.dtype and plan.mode not in metrics.UNIT)
    size = min(rows, max(size, 2 * slots(plan.kept, rows)))
    each = tiles.query_tile(len(query), plan.groups * plan.metric.held, size)

    def tile(number):
        """Rows, their summary, the first of them and which are new."""
        first, new = tiles.span(number, size, rows)
        if size == rows:
            return bank, summary, first, new
        part, of_each = (lax.dynamic_slice_in_dim(leaf, first, size) for leaf in (bank, summary))
        return part, of_each, first, new

    def scores(query, eligible, part, of_each, first, new):
        """(query, group, row) of a tile."""
        found = plan.metric.scores(query, part.astype(query.dtype), of_each, centre, plan.mode)
        found = found[:, None]
        mask = eligible.mask(first, size, new)
        return found if mask is None else jnp.where(mask, found, -jnp.inf)

    def best(scores, enough=None):
        enough = None if enough is None else enough.reshape(-1)
        chosen = select(lambda: (found := scores()).reshape(-1, found.shape[-1]), plan.kept, enough)
        return tuple(leaf.reshape(-1, plan.groups, *leaf.shape[1:]) for leaf in chosen)

    def begin(query, eligible):
        return best(lambda: scores(query, eligible, *tile(0)))

    def go_on(query, eligible, value, index, left, rows):
        new, place, beyond = best(lambda: scores(query, eligible, *rows), left)
        value = jnp.concatenate([value, new], -1)
        index = jnp.concatenate([index, jnp.where(place < 0, -1, place + rows[2])], -1)
        value, place, lost = best(lambda: value)
        index = jnp.where(place < 0, -1, jnp.take_along_axis(index, jnp.maximum(place, 0), -1))
        return value, index, jnp.maximum(beyond, lost)

    def next_tile(carry, number):
        # Rows outside, queries inside: a tile of the bank is copied once.
        step = functools.partial(go_on, rows=tile(number))
        return _by_parts(step, query, eligible, each, *carry), None

    carry = _by_parts(begin, query, eligible, each)
    carry, _ = lax.scan(next_tile, carry, jnp.arange(1, -(-rows // size), dtype=jnp.int32))
    return carry[1:]


def _directly(query, eligible, bank, plan):
    """The nearest rows by measuring every row."""
    rows, dim = bank.shape
    size = min(rows, max(1, tiles.MEASURED // (len(query) * max(dim, plan.groups))))

    def tile(carry, number):
        first, new = tiles.span(number, size, rows)
        part = bank if size == rows else lax.dynamic_slice_in_dim(bank, first, size)
        ids = first + jnp.arange(size, dtype=jnp.int32)
        found = plan.metric.distance(query[:, None], part.astype(query.dtype)[None])[:, None]
        mask = eligible.mask(first, size, new)
        found = found if mask is None else jnp.where(mask, found, jnp.inf)
        found = jnp.concatenate([carry[0], jnp.broadcast_to(found, (*carry[0].shape[:2], size))], -1)
        ids = jnp.concatenate([carry[1], jnp.broadcast_to(ids, (*carry[1].shape[:2], size))], -1)
        nearest, place = top_k(-found, plan.k)  # the lower row first among equals
        return (-nearest, jnp.take_along_axis(ids, place, -1)), None

    # Made from the query, so that under shard_map the carry varies as the tiles do.
    nothing = jnp.full((len(query), plan.groups, plan.k), jnp.inf) + 0 * query[:, :1, None]
    carry = nothing, jnp.full(nothing.shape, -1, jnp.int32) + 0 * query[:, :1, None].astype(jnp.int32)
    (distance, index), _ = lax.scan(tile, carry, jnp.arange(-(-rows // size), dtype=jnp.int32))
    return Neighbors(distance, jnp.where(distance == jnp.inf, -1, index))


def _repair(find, few, index, certain, query, eligible):
    """Candidates and what is certain after `find(query, eligible)` of what was not, `few` at a time."""
    count, _, width = index.shape
    few = min(few, count)

    def some(state):
        index, certain, done = state
        (which,) = jnp.nonzero(~done, size=few, fill_value=count)

        def take(leaf):
            return leaf.at[which].get(mode="clip")

        found, sure = find(take(query), eligible.of(jax.tree.map(take, eligible.each)))
        found = jnp.pad(found, [(0, 0)] * 2 + [(0, width - found.shape[-1])], constant_values=-1)
        put = (index, found), (certain, sure), (done, jnp.ones(few, bool))
        return tuple(leaf.at[which].set(new, mode="drop") for leaf, new in put)

    return lax.while_loop(lambda state: ~state[2].all(), some, (index, certain, certain))[:2]


def _by_parts(function, query, eligible, each, *carry):
    """`function(query, eligible, *carry)` for at most `each` queries at a time."""

    def part(query, each, *carry):
        return function(query, eligible.of(each), *carry)

    return tiles.in_tiles(part, each)(query, eligible.each, *carry)


def floating(*arrays: Any):
    """The type of distances: float64 if any of the arrays is, else float32."""
    wide = any(array.dtype == jnp.float64 for array in arrays)
    return jnp.dtype(jnp.float64 if wide else jnp.float32)
