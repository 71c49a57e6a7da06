"""The exact radius for k = 1: the distance to the nearest cell of a row of another class.

Cells are taken in the order of their lower bounds, until the next bound is above a point found.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from knn_jax.certificates import cell_qp
from knn_jax.certificates.order_statistics import bracketed, nearest_of_each_side
from knn_jax.certificates.voronoi import every_cell
from knn_jax.classifiers import BATCH, Certifiable, Images, Labels
from knn_jax.neighbors import in_tiles, search, top_k

HIGHEST = lax.Precision.HIGHEST
HELD = 2**25  # bounds of (image, row)
SCORED = 2**22  # distances of (image, row of class y, row)
NEAR = 16  # rows of class y that bound every cell at first
POOL = 32  # rows of class y that a program knows
CUTS = 8  # rows of class y found at once
LANES = 32  # images worked on at once
CELLS = 2  # cells of each of them
ROUNDS = 2000  # of work on one batch, after which a radius is returned as not closed


class _Known(NamedTuple):
    """What is known of each image so far."""

    bound: Array  # (image, row) lower bound on the distance to its cell; inf once solved, or of class y
    least: Array  # (image,) of these
    solved: Array  # (image,) the least bound of a solved cell
    upper: Array  # (image,)
    point: Array  # (image, dim)
    pool: Array  # (image, slot) rows of class y, the last used first; -1: none

    def open(self) -> Array:
        """Which images have a cell that may be nearer than the point."""
        return self.least < self.upper


def bracket(
    model: Certifiable, x: Images, y: Labels, lipschitz: Float[Array, ""], *, box: bool
) -> tuple[Array, ...]:
    """`exact`'s lower, upper, closed and point for k = 1."""
    (bank,) = model.banks
    rows = bank.shape[0]
    norms = jnp.sum(jnp.square(bank), -1)

    def batch(x, y):
        query = model.first(x)
        near = nearest_of_each_side(model, query, y, NEAR, 1)
        relative = near.relative + POOL * 2.0**-24  # of sums over the pixels, and over the pool
        bisectors = functools.partial(every_cell, model, norms, relative)
        bound = in_tiles(bisectors, max(1, SCORED // (rows * NEAR)))(query, y, near.own)
        bound = jnp.maximum(bound - 4 * near.absolute[:, None], 0.0)
        away, w = near.other.distance[:, 0], near.other.index[:, 0]
        at_w = search(bank[w], bank, 1, labels=model.labels, only=y)
        hidden = _hidden(at_w.distance == 0, at_w.index, w)[:, 0]
        own, z = near.own.distance[:, 0], near.own.index[:, 0]
        wrong = (away < own) | ((away == own) & (w < z)) | ~near.known
        upper = jnp.where(wrong, 0.0, jnp.where(hidden, jnp.inf, away * (1 + relative)))
        slots = ((0, 0), (0, POOL - near.own.index.shape[1]))
        known = _Known(
            bound=bound,
            least=bound.min(1),
            solved=jnp.full(len(x), jnp.inf),
            upper=upper,
            point=jnp.where(((upper > 0) & (upper < jnp.inf))[:, None], bank[w], query),
            pool=jnp.pad(near.own.index, slots, constant_values=-1),
        )
        lanes = min(LANES, len(x))

        def work(state):
            known, count = state
            (lane,) = jnp.nonzero(known.open(), size=lanes, fill_value=len(x))
            some = (query, y, near.absolute, known)
            some = jax.tree.map(lambda leaf: leaf.at[lane].get(mode="clip"), some)
            new = _examine(model, relative, box, *some)
            return jax.tree.map(lambda a, b: a.at[lane].set(b, mode="drop"), known, new), count + 1

        def more(state):
            return state[0].open().any() & (state[1] < ROUNDS)

        known, _ = lax.while_loop(more, work, (known, jnp.int32(0)))
        lower = jnp.minimum(jnp.minimum(known.solved, known.least), known.upper)
        return *bracketed(near, lower, known.upper, ~known.open(), lipschitz), known.point

    return in_tiles(batch, max(1, min(BATCH, HELD // rows)))(x, y)


def _examine(model, relative, box, query, y, absolute, known):
    """What is known after work on the cells with the least bounds.

    The dual of each cell's program tightens its bound. The nearest of them is entered; if other rows of
    class y are nearer there, these enter the pool, and the cell stays open.
    """
    (bank,) = model.banks
    lane = jnp.arange(len(query))
    low, high = (0.0, 1.0) if box else (-jnp.inf, jnp.inf)
    before, w = top_k(-known.bound, min(CELLS, len(bank)))
    z, there = bank[known.pool], known.pool >= 0
    needed = -before < known.upper[:, None]
    to_w = jnp.sum(jnp.square(bank[w] - query[:, None]), -1)
    to_z = jnp.where(there, jnp.sum(jnp.square(z - query[:, None]), -1), 0.0)
    cell = cell_qp.Cell(
        normal=bank[w][:, :, None] - z[:, None],
        lead=(to_w[..., None] - to_z[:, None]) / 2,
        there=there[:, None] & needed[..., None],
        low=jnp.broadcast_to((low - query)[:, None], (*w.shape, query.shape[1])),
        high=jnp.broadcast_to((high - query)[:, None], (*w.shape, query.shape[1])),
    )
    weight = cell_qp.solve(cell)
    bound = (
        cell_qp.radius(cell, weight, to_w[..., None], to_z[:, None], relative) - 4 * absolute[:, None]
    )
    bound = jnp.maximum(bound, -before)
    least = jnp.argmin(bound, 1)
    every = (cell, weight, bound, w, bank[w], to_w[..., None])
    cell, weight, lower, number, end, to_w = jax.tree.map(lambda leaf: leaf[lane, least], every)

    # Into the cell as the pool has it, and from there as all rows have it.
    away = cell_qp.step(cell, weight)
    lengths = jnp.sum(jnp.square(cell.normal), -1)
    gap = jnp.einsum("lsd,ld->ls", cell.normal, away, precision=HIGHEST) - cell.lead
    margin = 1.25 * cell_qp.margin(
        to_w, to_z, lengths, relative, absolute[:, None]
    )  # not to be short again below
    gap = jnp.where(there & (lengths > 0), gap - margin, jnp.inf)  # a row equal to w is never nearer
    point = _towards(end, query + away, gap, lengths / 2)
    found = search(point, bank, min(CUTS, len(bank)), labels=model.labels, only=y)
    to_w = jnp.sum(jnp.square(point - end), -1)[:, None]
    to_z = jnp.square(found.distance)
    rows = bank[found.index]
    lengths = jnp.sum(jnp.square(end[:, None] - rows), -1)
    new = (to_z < to_w) & (lengths > 0) & (found.index[..., None] != known.pool[:, None]).all(-1)
    gap = (to_z - to_w) / 2 - cell_qp.margin(to_w, to_z, lengths, relative, absolute[:, None])
    gap = jnp.where((found.index >= 0) & (lengths > 0), gap, jnp.inf)
    point = jnp.clip(_towards(end, point, gap, lengths / 2), low, high)
    norm = jnp.sqrt(jnp.sum(jnp.square(point - query), -1)) * (1 + relative)
    hidden = _hidden(lengths == 0, found.index, number).any(1)
    better = (gap[:, -1] >= 0) & (norm < known.upper) & ~hidden  # else rows not found may be in the way

    solved = ~new.any(1) & ~hidden
    never = _hidden((end[:, None] == rows).all(-1), found.index, number).any(1)  # lengths underflow
    bound = bound.at[lane, least].set(jnp.where(solved | never, jnp.inf, lower))
    bound = known.bound.at[lane[:, None], w].set(bound)
    use = jnp.where(there, jnp.where(weight > 0, 1, 2), 3)
    order = jnp.argsort(jnp.concatenate([jnp.where(new, 0, 3), use], 1), 1, stable=True)
    pool = jnp.concatenate([jnp.where(new, found.index, -1), known.pool], 1)
    return _Known(
        bound=bound,
        least=bound.min(1),
        solved=jnp.minimum(known.solved, jnp.where(solved, lower, jnp.inf)),
        upper=jnp.where(better, norm, known.upper),
        point=jnp.where(better[:, None], point, known.point),
        pool=jnp.take_along_axis(pool, order[:, :POOL], 1),
    )


def _hidden(same, own, w):
    """Whether the row w is the same as one of these before it, which it never precedes in a vote."""
    return same & (own >= 0) & (own < w[:, None])


def _towards(end, point, gap, at_end):
    """The point moved towards the end as far as every gap, linear on the way, takes to be closed."""
    short = gap < 0
    share = jnp.where(short, gap / jnp.where(short, gap - at_end, 1.0), 0.0).max(-1, keepdims=True)
    return point + share * (end - point)
