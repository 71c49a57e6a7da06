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
from knn_jax.neighbors.result import Neighbors
from knn_jax.neighbors.top_k import select, slots, top_k

CENTRED = 64  # queries scored about the centre at once, where the rows in place could not decide
SPARE = 8  # rows beyond k that a tile is to be better than
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

    small = rows <= tiles.SMALL
    plan = plan._replace(mode="shifted") if small else plan
    centre, summary, usable, trusted = summarise(bank, plan)
    eligible = eligible._replace(there=usable if eligible.there is None else usable & eligible.there)

    def by_bounds(plan, query, eligible):
        """Candidates, and a distance below which no other row is: inf if there is none."""
        index, left = _candidates(query, bank, eligible, plan, centre, summary)
        floor = plan.metric.floor(left, query, centre, plan.mode)
        floor = jnp.where(trusted & (floor < jnp.inf), floor, -jnp.inf)
        return index, jnp.where(trusted & (left == -jnp.inf), jnp.inf, floor)

    def directly(query, eligible):
        index = direct.measure_all(query, eligible, bank, plan).index
        return index, jnp.full(index.shape[:2], jnp.inf, query.dtype)

    index, floor = by_bounds(plan, query, eligible)
    width = index.shape[-1]
    centring = dim > BLOCK and not small  # else bounds are narrow, or all rows are soon measured
    centred = plan._replace(mode="centred")
    pieces = -(-slots(centred.kept, rows) // width) if centring else 1
    index = _widened(index, pieces * width)
    about_centre = functools.partial(by_bounds, centred)

    def measure(query, index, count):
        """The nearest of the first `count` pieces of the candidates."""
        if pieces == 1:
            return direct.measure(query, index, bank, plan)

        def nearer(number, near):
            piece = lax.dynamic_slice_in_dim(index, number * width, width, -1)
            return direct.measure(query, piece, bank, plan, near)

        nothing = Neighbors(jnp.inf + 0 * query[:, :1, None], -1 + 0 * index[..., :1])
        nothing = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*index.shape[:2], plan.k)), nothing)
        return lax.fori_loop(0, count, nearer, nothing)

    def prove(state):
        """Measures the candidates; where others may be nearer, they are chosen anew."""
        index, floor, first, _, _ = state
        count = jnp.where(first, 1, pieces)
        each = tiles.gathered(plan.groups * width * dim)
        near = tiles.in_tiles(functools.partial(measure, count=count), each)(query, index)
        certain = ((floor == jnp.inf) | (floor > near.distance.max(-1))).all(-1)

        def repaired():
            found, done = (index, floor), certain
            if centring:
                found = _repair(about_centre, CENTRED, *found, certain | ~first, query, eligible)
                done = certain | first
            return _repair(directly, REPAIRED, *found, done, query, eligible)

        # The condition keeps XLA from doing what does not change in a loop before it, for nobody.
        index, floor = lax.cond(certain.all(), lambda: (index, floor), repaired)
        return index, floor, jnp.zeros_like(first), near, certain.all()

    # Made from what is there, so that under shard_map the state varies as it does.
    nothing = Neighbors(
        jnp.zeros((1, 1, plan.k), floor.dtype) + 0 * floor[..., None], index[..., : plan.k]
    )
    start = index, floor, index[0, 0, 0] >= -1, nothing, index[0, 0, 0] < -1
    return lax.while_loop(lambda state: ~state[4], prove, start)[3]


def _candidates(query, bank, eligible, plan, centre, summary):
    """Rows (query, group, slot) that may be among the nearest, -1 for none, and the largest score of
    the others (query, group)."""
    rows, dim = bank.shape
    size = tiles.row_tile(rows, dim, bank.dtype == query.dtype and plan.mode not in UNIT)
    size = min(rows, max(size, 2 * slots(plan.kept, rows)))
    each = tiles.query_tile(len(query), plan.groups * plan.metric.held, size)

    def choose(query, eligible, enough, number):
        """The best of a tile of rows, and the largest score of its others."""
        first, new = tiles.span(number, size, rows)
        part, of_each = bank, summary
        if size < rows:
            part, of_each = (lax.dynamic_slice_in_dim(leaf, first, size) for leaf in (bank, summary))
        mask = eligible.mask(first, size, new)

        def scores():
            """(query, group, row); -inf is no row's, and a score that overflowed excludes nobody."""
            found = plan.metric.scores(query, part.astype(query.dtype), of_each, centre, plan.mode)
            found = jnp.where(jnp.isnan(found), jnp.inf, jnp.maximum(found, jnp.finfo(found.dtype).min))
            found = jnp.where(mask, found[:, None], -jnp.inf)
            return found.reshape(-1, size)

        chosen = select(scores, plan.kept, None if enough is None else enough.reshape(-1))
        value, place, beyond = (leaf.reshape(-1, plan.groups, *leaf.shape[1:]) for leaf in chosen)
        return value, jnp.where(place < 0, -1, place + first), beyond

    if size == rows:
        return by_parts(
            lambda query, eligible: choose(query, eligible, None, 0)[1:], query, eligible, each
        )

    def go_on(query, eligible, value, index, left, number):
        """The best of those so far and of a tile."""
        enough = value[..., plan.k + SPARE]  # a tile as good as those before has few more above it
        new, place, beyond = choose(query, eligible, enough, number)
        value, place_of = top_k(jnp.concatenate([value, new], -1), plan.kept)
        index = jnp.take_along_axis(jnp.concatenate([index, place], -1), place_of, -1)
        # What is not among them any more is at most the least of them.
        return value, index, jnp.maximum(left, jnp.maximum(beyond, value.min(-1)))

    def next_tile(carry, number):
        # Rows outside, queries inside: a tile of the bank is copied once.
        return by_parts(functools.partial(go_on, number=number), query, eligible, each, *carry), None

    # Made from the query, so that under shard_map the carry varies as the tiles do.
    none = jnp.full((len(query), plan.groups, plan.kept), -jnp.inf, query.dtype)
    none += 0 * query[:, :1, None]
    carry = none, jnp.where(none < 0, -1, 0), none[..., 0]
    numbers = jnp.arange(-(-rows // size), dtype=jnp.int32)
    return lax.scan(next_tile, carry, numbers)[0][1:]


def _widened(index, width):
    """The same candidates and none up to so many."""
    return jnp.pad(index, [(0, 0), (0, 0), (0, width - index.shape[-1])], constant_values=-1)


def _repair(find, few, index, floor, done, query, eligible):
    """Candidates and floors after `find(query, eligible)` of what is not done, `few` at a time."""
    count, _, width = index.shape
    few = min(few, count)

    def some(state):
        index, floor, done = state
        missing, which = lax.top_k((~done).astype(jnp.float32), few)
        which = jnp.where(missing > 0, which, which[0])

        def take(leaf):
            return leaf[which]

        found, sure = find(take(query), eligible.of(jax.tree.map(take, eligible.each)))
        put = (index, _widened(found, width)), (floor, sure), (done, jnp.ones(few, bool))
        return tuple(leaf.at[which].set(new) for leaf, new in put)

    return lax.while_loop(lambda state: ~state[2].all(), some, (index, floor, done))[:2]
