"""The exact radius for odd k > 1: the distance to the nearest cell of a set of rows.

With m = (k + 1) / 2, class y lacks the majority at a point exactly where some m rows W of other classes
are as near as every row of class y but some m - 1, the rows E. For given W and E the nearest such point
is a quadratic program. The branch with the least bound is divided first, by the next row in W and then
in E: one of the rows that the optimum is held back by must be in E, for leaving out any other does not
shorten the way (Matousek 1995).
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from knn_jax import neighbors
from knn_jax.certificates import branch_and_bound
from knn_jax.certificates.order_statistics import bracketed, majority, nearest_of_each_side
from knn_jax.certificates.voronoi import every_cell
from knn_jax.classifiers import Certifiable, Images, Labels
from knn_jax.neighbors import in_tiles, search, top_k

BATCH = 64  # images whose branches are held
SCORED = 2**22  # distances of (image, own row, row)
NEAR = 16  # rows of class y that bound every row's cell at first
RIVALS = 128  # rows of other classes of which sets are made
OPEN = 4096  # branches of an image
POOL = 24  # rows of class y that a program knows
ENDS = 8  # nearest rows of other classes that may be the first point
LANES = 8  # images worked on at once
WORK = 4000  # turns of work on an image, after which its radius is returned as not closed


def bracket(model: Certifiable, x: Images, y: Labels, lipschitz: Float[Array, ""], *, box: bool):
    """`exact`'s lower, upper, closed and point for odd k above 1."""
    (bank,) = model.banks
    rows = bank.shape[0]
    norms = jnp.sum(jnp.square(bank), -1)
    _, m = majority(model.k)
    rivals = min(RIVALS, rows - 1)
    slots = max(OPEN, 2 * rivals)

    def batch(x, y):
        query = model.first(x)
        count = len(x)
        near = nearest_of_each_side(model, query, y, max(NEAR, model.k), max(ENDS, model.k))
        nearest = neighbors.merge(near.own, near.other, model.k)
        wrong = ~branch_and_bound.right(model, nearest, y) | ~near.known
        relative = near.relative + m * POOL * 2.0**-24  # of sums over the pixels, and over the pool
        bisectors = functools.partial(every_cell, model, norms, relative, place=m)
        bound = in_tiles(bisectors, max(1, SCORED // (rows * NEAR)))(query, y, near.own)
        least, rival = top_k(-bound, rivals + 1)
        least = jnp.maximum(-least - 4 * near.absolute[:, None], 0.0)
        first = jnp.where(jnp.arange(rivals)[None] < m - 1, jnp.inf, least[:, :rivals])
        upper, point = _first(model, relative, query, y, near)
        own = near.own.index[:, :POOL]
        tree = branch_and_bound.Tree(
            bound=jnp.pad(first, ((0, 0), (0, slots - rivals)), constant_values=jnp.inf),
            chosen=jnp.full((count, slots, m), -1, jnp.int32)
            .at[:, :rivals, 0]
            .set(jnp.arange(rivals, dtype=jnp.int32)[None]),
            left=jnp.full((count, slots, m - 1), -1, jnp.int32),
            rival=least[:, :rivals],
            lower=least[:, rivals],
            missed=least[:, rivals],
            upper=jnp.where(wrong, 0.0, upper),
            point=jnp.where(wrong[:, None], query, point),
            pool=jnp.pad(own, ((0, 0), (0, POOL - own.shape[1])), constant_values=-1),
            turns=jnp.zeros(count, jnp.int32),
        )
        lanes = min(LANES, count)

        def go(tree):
            return tree.open() & (tree.turns < WORK)

        def work(tree):
            (lane,) = jnp.nonzero(go(tree), size=lanes, fill_value=count)
            some = (rival[:, :rivals], query, y, near.absolute, tree)
            some = jax.tree.map(lambda leaf: leaf.at[lane].get(mode="clip"), some)
            new = branch_and_bound.examine(model, relative, box, *some)
            return jax.tree.map(lambda a, b: a.at[lane].set(b, mode="drop"), tree, new)

        tree = lax.while_loop(lambda tree: go(tree).any(), work, tree)
        lower = jnp.minimum(jnp.minimum(tree.lower, tree.bound.min(1)), tree.upper)
        closed = ~tree.open() & (tree.missed >= tree.upper)
        return *bracketed(near, lower, tree.upper, closed, lipschitz), tree.point

    return in_tiles(batch, BATCH)(x, y)


def _first(model, relative, query, y, near):
    """The nearest of a few rows of other classes at which class y is lost; inf: none."""
    (bank,) = model.banks
    _, m = majority(model.k)
    ends = near.other.index[:, :ENDS]

    def one(best, end):
        point = bank[end]
        w = search(point, bank, m, labels=model.labels, without=y)
        there, _, _ = branch_and_bound.lost(model, relative, near.absolute, y, point, w.index)
        there &= (w.index >= 0).all(-1) & (end >= 0)
        norm = jnp.sqrt(jnp.sum(jnp.square(point - query), -1)) * (1 + relative)
        norm = jnp.where(there, norm, jnp.inf)
        upper, at = best
        better = norm < upper
        return (jnp.where(better, norm, upper), jnp.where(better[:, None], point, at)), None

    start = jnp.full(len(query), jnp.inf), query
    return lax.scan(one, start, ends.T)[0]
