"""Distances measured one by one: of candidates, and of every row."""

import jax.numpy as jnp
from jax import lax

from knn_jax.neighbors import tiles
from knn_jax.neighbors.metric import BoundedMetric
from knn_jax.neighbors.result import Neighbors, merge, ordered
from knn_jax.neighbors.top_k import top_k


def measure(query, index, bank, plan, others=None):
    """The nearest of candidates, and of others that are measured already."""

    def pairs():
        return query[:, None, None], bank[index].astype(query.dtype)

    found = _distances(plan.metric, pairs, bank.shape[1])
    near = Neighbors(jnp.where(index < 0, jnp.inf, found), index)
    return ordered(near, plan.k) if others is None else merge(near, others, plan.k)


def measure_all(query, eligible, bank, plan):
    """The nearest rows by measuring every row."""
    rows, dim = bank.shape
    size = min(rows, max(1, tiles.MEASURED // (len(query) * max(dim, plan.groups))))

    def tile(number):
        """Distances (query, group, row) of a tile of rows, inf for none, and their indices."""
        first, new = tiles.span(number, size, rows)

        def pairs():
            part = bank if size == rows else lax.dynamic_slice_in_dim(bank, first, size)
            return query[:, None], part.astype(query.dtype)[None]

        found = _distances(plan.metric, pairs, dim)
        found = jnp.where(jnp.isfinite(found), found, jnp.inf)[:, None]  # a row that is not finite
        mask = eligible.mask(first, size, new)
        found = found if mask is None else jnp.where(mask, found, jnp.inf)
        ids = first + jnp.arange(size, dtype=jnp.int32)
        shape = (len(query), plan.groups, size)
        return jnp.broadcast_to(found, shape), jnp.broadcast_to(ids, shape)

    def least(distance, index):
        nearest, place = top_k(-distance, plan.k)  # the lower row first among equals
        return -nearest, jnp.take_along_axis(index, place, -1)

    def next_tile(carry, number):
        pairs = zip(carry, tile(number), strict=True)
        return least(*(jnp.concatenate(pair, -1) for pair in pairs)), None

    if size == rows:
        distance, index = least(*tile(0))
    else:
        # Made from the query, so that under shard_map the carry varies as the tiles do.
        nothing = jnp.full((len(query), plan.groups, plan.k), jnp.inf) + 0 * query[:, :1, None]
        none = jnp.full(nothing.shape, -1, jnp.int32) + 0 * query[:, :1, None].astype(jnp.int32)
        numbers = jnp.arange(-(-rows // size), dtype=jnp.int32)
        (distance, index), _ = lax.scan(next_tile, (nothing, none), numbers)
    return Neighbors(distance, jnp.where(distance == jnp.inf, -1, index))


def _distances(metric, pairs, dim):
    """Distances of `pairs()`, which is asked again where squares leave the range of the type."""
    if not isinstance(metric, BoundedMetric):
        query, rows = pairs()
        found = metric.distance(query, rows).astype(query.dtype)
        found = jnp.where(found == 0, 0.0, found)  # not -0, which sorts before 0
        # A metric of one's own may find a number for a row that is none.
        return jnp.where(jnp.isfinite(rows).all(-1), found, jnp.inf)
    found = metric.quick(*pairs())
    stray = metric.strays(found, dim).any()
    return lax.cond(stray, lambda: metric.distance(*pairs()), lambda: found)
