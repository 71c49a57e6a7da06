"""The nearest rows of a small bank: a matmul bounds every row, one selection, the best are measured."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from knn_jax.neighbors import tiles
from knn_jax.neighbors.bounds import summarise
from knn_jax.neighbors.direct import measure, measure_all
from knn_jax.neighbors.plan import by_parts
from knn_jax.neighbors.result import Neighbors
from knn_jax.neighbors.top_k import select, slots

TOGETHER = 64  # queries at least that are scored together


def nearest_of_few(query, bank, eligible, plan):
    """The nearest rows of a bank of which all scores are held. Each step stands once in the program."""
    rows, dim = bank.shape
    plan = plan._replace(mode="shifted")
    centre, summary, usable, trusted = summarise(bank, plan)
    eligible = eligible._replace(there=usable if eligible.there is None else usable & eligible.there)
    held = tiles.gathered(plan.groups * slots(plan.kept, rows) * dim)

    def part(query, eligible):
        def scores():
            found = plan.metric.scores(query, bank.astype(query.dtype), summary, centre, plan.mode)
            found = jnp.where(eligible.mask(0, rows, None), found[:, None], -jnp.inf)
            return found.reshape(-1, rows)

        chosen = select(scores, plan.kept)
        index, left = (leaf.reshape(-1, plan.groups, *leaf.shape[1:]) for leaf in chosen[1:])
        left = jnp.where(trusted, left, jnp.inf)

        def prove(state):
            """Measures the candidates; where others may be nearer, all rows choose them anew."""
            index, left, _, _ = state
            near = tiles.in_tiles(functools.partial(measure, bank=bank, plan=plan), held)(query, index)
            floor = plan.metric.floor(left, query, centre, plan.mode)
            sure = (floor > near.distance.max(-1)) & (floor < jnp.inf)
            certain = ((left == -jnp.inf) | sure).all(-1)
            index = _repaired(query, bank, eligible, plan, index, certain)
            return index, jnp.full_like(left, -jnp.inf), near, certain.all()

        # Made from what is there, so that under shard_map the state varies as it does.
        none = jnp.zeros((1, 1, plan.k), left.dtype) + 0 * left[..., None]
        nothing = Neighbors(none, index[..., : plan.k])
        return lax.while_loop(
            lambda state: ~state[3], prove, (index, left, nothing, index[0, 0, 0] < -1)
        )[2]

    each = tiles.query_tile(3 * len(query), 3 * plan.groups * plan.metric.held, rows)
    each = min(each, held if held >= TOGETHER else 4 * TOGETHER)
    return by_parts(part, query, eligible, each)


def _repaired(query, bank, eligible, plan, index, certain):
    """Candidates, for queries that are not certain the nearest of all rows."""

    def one(state):
        index, certain = state
        which = jnp.argmin(certain)

        def take(leaf):
            return lax.dynamic_slice_in_dim(leaf, which, 1)

        among = eligible.of(jax.tree.map(take, eligible.each))
        found = measure_all(take(query), among, bank, plan).index
        found = jnp.pad(found, [(0, 0)] * 2 + [(0, index.shape[-1] - plan.k)], constant_values=-1)
        return lax.dynamic_update_slice_in_dim(index, found, which, 0), certain.at[which].set(True)

    return lax.while_loop(lambda state: ~state[1].all(), one, (index, certain))[0]
