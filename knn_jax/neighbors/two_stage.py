"""Filter and refine: which way a search takes, bounds of all rows tile by tile, and what mends them.

The page of `knn_jax.neighbors` explains the ways.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from knn_jax.neighbors import direct, tiles
from knn_jax.neighbors.bounds import summarise
from knn_jax.neighbors.metric import BoundedMetric
from knn_jax.neighbors.plan import by_parts
from knn_jax.neighbors.precision import BLOCK, UNIT
from knn_jax.neighbors.small import nearest_of_few
from knn_jax.neighbors.top_k import select, slots

CENTRED = 64  # queries scored about the centre at once, where the rows in place could not decide
REPAIRED = 16  # queries compared with all rows at once, where no matmul could


def nearest(query, bank, eligible, plan):
    """The nearest rows, (query, group, k)."""
    rows, dim = bank.shape
    bounded = isinstance(plan.metric, BoundedMetric)
    few = len(query) * rows * dim <= tiles.DIRECT
    if not bounded or few or slots(plan.kept, rows) * 2 > rows:  # most would be measured anyhow
        each = max(1 if bounded else REPAIRED, tiles.MEASURED // (dim * rows))
        every = functools.partial(direct.measure_all, bank=bank, plan=plan)
        return by_parts(every, query, eligible, each)

    if rows <= tiles.SMALL:
        return nearest_of_few(query, bank, eligible, plan)

    centre, summary, usable, trusted = summarise(bank, plan)
    eligible = eligible._replace(there=usable if eligible.there is None else usable & eligible.there)

    def measure(query, index):
        return direct.measure(query, index, bank, plan)

    def by_bounds(plan, query, eligible):
        """Candidates, the nearest of these, and for which queries they are the nearest of all."""
        index, left = _candidates(query, bank, eligible, plan, centre, summary)

        def prove(query, index, left):
            near = measure(query, index)
            floor = plan.metric.floor(left, query, centre, plan.mode)
            sure = (floor > near.distance.max(-1)) & (floor < jnp.inf)
            return near, trusted & ((left == -jnp.inf) | sure).all(-1)

        each = tiles.gathered(plan.groups * index.shape[-1] * dim)
        near, certain = tiles.in_tiles(prove, each)(query, index, left)
        return index, near, certain

    index, near, certain = by_bounds(plan, query, eligible)

    def about_centre(query, eligible):
        _, found, sure = by_bounds(plan._replace(mode="centred"), query, eligible)
        return found.index, sure

    def directly(query, eligible):
        return direct.measure_all(query, eligible, bank, plan).index, jnp.ones(len(query), bool)

    def repaired():
        found = index, certain
        if dim > BLOCK:  # of few dimensions the bounds are narrow, and all rows soon measured
            found = _repair(about_centre, CENTRED, *found, query, eligible)
        found, _ = _repair(directly, REPAIRED, *found, query, eligible)
        # Measured again by the same steps: others may round otherwise, and equal rows would not tie.
        each = tiles.gathered(plan.groups * index.shape[-1] * dim)
        return tiles.in_tiles(measure, each)(query, found)

    # The condition keeps XLA from doing what does not change in a loop before it, for nobody.
    return lax.cond(certain.all(), lambda: near, repaired)


def _candidates(query, bank, eligible, plan, centre, summary):
    """Rows (query, group, slot) that may be among the nearest, -1 for none, and the largest score of
    the others (query, group)."""
    rows, dim = bank.shape
    size = tiles.row_tile(rows, dim, bank.dtype == query.dtype and plan.mode not in UNIT)
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
        return value, index, jnp.maximum(left, jnp.maximum(beyond, lost))

    def next_tile(carry, number):
        # Rows outside, queries inside: a tile of the bank is copied once.
        step = functools.partial(go_on, rows=tile(number))
        return by_parts(step, query, eligible, each, *carry), None

    carry = by_parts(begin, query, eligible, each)
    if size == rows:
        return carry[1:]
    carry, _ = lax.scan(next_tile, carry, jnp.arange(1, -(-rows // size), dtype=jnp.int32))
    return carry[1:]


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
