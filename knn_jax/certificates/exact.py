"""The exact radius: of 1-NN the distance to the nearest cell of a row of another class."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from knn_jax.certificates import cells, sets
from knn_jax.certificates.bisectors import every_cell
from knn_jax.certificates.sides import bracketed, check, constant, sides
from knn_jax.classifiers import BATCH, Images, Labels
from knn_jax.neighbors import in_tiles, search, top_k

HIGHEST = lax.Precision.HIGHEST
HELD = 2**25  # bounds of (image, row)
SCORED = 2**22  # distances of (image, own row, row)
NEAR = 16  # own rows, those of class y, that bound every cell at first
POOL = 32  # own rows that a program knows
CUTS = 8  # own rows found at once
LANES = 32  # images worked on at once
CELLS = 2  # of each of them
ROUNDS = 2000  # of work on one batch, before what is left open is returned so


class Exact(NamedTuple):
    """What brackets the norm of the smallest perturbation that changes the vote.

    lower   no perturbation below it does, float32's rounding in the vote included; 0: none needed
    upper   of a perturbation of the features that does, by a margin above rounding; inf: none found
    closed  whether no cell is left open: rounding and the solver's tolerance are between the two
    point   the perturbed features

    Where features or their squares are no numbers nothing is known: 0, inf, and not closed.
    """

    lower: Float[Array, " batch"]
    upper: Float[Array, " batch"]
    closed: Bool[Array, " batch"]
    point: Float[Array, "batch dim"]


class _Known(NamedTuple):
    """Of each image so far."""

    bound: Array  # (image, row) on the distance to the row's cell; inf once solved, or of class y
    least: Array  # (image,) of these
    solved: Array  # (image,) the least bound of a solved cell
    upper: Array  # (image,)
    point: Array  # (image, dim)
    pool: Array  # (image, slot) own rows, those last of use first; -1: none

    def open(self) -> Array:
        """Which images have a cell that may be nearer than the point."""
        return self.least < self.upper


def exact(
    model: Any, x: Images, y: Labels, *, lipschitz: float | None = None, box: bool = False
) -> Exact:
    """The smallest change in L2 of the features that takes the vote from class y, bracketed.

    It is the radius in the space of the features unless their constant `lipschitz` is given, through
    which `lower` bounds the perturbation of the image, and `upper` is the best that any such bound can
    be. Of a classifier on the inputs themselves, `classifiers.knn(None, ...)`, it is the smallest
    perturbation, with `box` among those that keep pixels in [0, 1].

    For k = 1 the change to a row w of another class is the projection of x on the cell of w against all
    rows z of class y, a quadratic program (Wang et al. 2019). Cells are taken in the order of their
    bounds, at first those of bisectors; a program knows the few z that an exact search at its solution
    found nearer than w; and the next cell's bound above `upper` ends it. Any weights of its dual prove
    a bound, any point in a cell is an upper one. Time goes as images x rows.

    For odd k above 1 the cells are those of sets of rows (`sets`), by the same programs, and there are
    many: on MNIST's pixels k = 3 takes half a second an image, k = 5 did not end in minutes. A majority
    of rows of other classes among the k is what `lower` excludes. It takes the vote from y in two
    classes; in more `upper` is of a point that the vote itself is against, and where those votes are
    too divided to outvote y, the two stay apart and it is not `closed`.

    Raises ValueError for even k, and for a `box` around features that are not the inputs.
    """
    x, y = check(model, x, y)
    stretch = constant(model, 1.0 if lipschitz is None else lipschitz)
    if model.k % 2 == 0:
        raise ValueError(f"k={model.k}: exact is for odd k; voronoi bounds the radius for any k")
    if box and not model.on_inputs:
        raise ValueError(
            "box=True is for a classifier on the inputs themselves: classifiers.knn(None, images, ...)"
        )
    return _exact(model, x, y, stretch, box=box)


@functools.partial(jax.jit, static_argnames="box")
def _exact(model, x, y, lipschitz, *, box):
    if model.k > 1:
        return Exact(*sets.bracket(model, x, y, lipschitz, box=box))
    (bank,) = model.banks
    rows = bank.shape[0]
    norms = jnp.sum(jnp.square(bank), -1)

    def batch(x, y):
        query = model.first(x)
        near = sides(model, query, y, NEAR, 1)
        relative = near.relative + POOL * 2.0**-24  # of sums over the pixels, and over the pool
        bisectors = functools.partial(every_cell, model, norms, relative)
        bound = in_tiles(bisectors, max(1, SCORED // (rows * NEAR)))(query, y, near.own)
        bound = jnp.maximum(bound - 4 * near.absolute[:, None], 0.0)
        away, w = near.other.distance[:, 0], near.other.index[:, 0]
        at_w = search(bank[w], bank, 1, labels=model.labels, only=y)
        hidden = _hidden(at_w.distance == 0, at_w.index, w)[:, 0]
        own, z = near.own.distance[:, 0], near.own.index[:, 0]
        wrong = (away < own) | ((away == own) & (w < z)) | ~near.vouched
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
        return Exact(*bracketed(near, lower, known.upper, ~known.open(), lipschitz), known.point)

    return in_tiles(batch, max(1, min(BATCH, HELD // rows)))(x, y)


def _examine(model, relative, box, query, y, absolute, known):
    """What is known after work on the cells of the least bounds: all are bounded better, and the
    least of them is entered, or else rows are found that are in the way."""
    (bank,) = model.banks
    lane = jnp.arange(len(query))
    low, high = (0.0, 1.0) if box else (-jnp.inf, jnp.inf)
    before, w = top_k(-known.bound, min(CELLS, len(bank)))
    z, there = bank[known.pool], known.pool >= 0
    needed = -before < known.upper[:, None]
    to_w = jnp.sum(jnp.square(bank[w] - query[:, None]), -1)
    to_z = jnp.where(there, jnp.sum(jnp.square(z - query[:, None]), -1), 0.0)
    cell = cells.Cell(
        normal=bank[w][:, :, None] - z[:, None],
        lead=(to_w[..., None] - to_z[:, None]) / 2,
        there=there[:, None] & needed[..., None],
        low=jnp.broadcast_to((low - query)[:, None], (*w.shape, query.shape[1])),
        high=jnp.broadcast_to((high - query)[:, None], (*w.shape, query.shape[1])),
    )
    weight = cells.solve(cell)
    bound = cells.radius(cell, weight, to_w[..., None], to_z[:, None], relative) - 4 * absolute[:, None]
    bound = jnp.maximum(bound, -before)
    least = jnp.argmin(bound, 1)
    every = (cell, weight, bound, w, bank[w], to_w[..., None])
    cell, weight, lower, number, end, to_w = jax.tree.map(lambda leaf: leaf[lane, least], every)

    # Into the cell as the pool has it, and from there as all rows have it.
    away = cells.step(cell, weight)
    lengths = jnp.sum(jnp.square(cell.normal), -1)
    gap = jnp.einsum("lsd,ld->ls", cell.normal, away, precision=HIGHEST) - cell.lead
    margin = 1.25 * cells.margin(
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
    gap = (to_z - to_w) / 2 - cells.margin(to_w, to_z, lengths, relative, absolute[:, None])
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
