"""Branch and bound over sets of rows: W of other classes, and E of class y that may be nearer.

A branch is a pair of such sets, perhaps not full yet. `Tree` holds the open branches of every image,
and `examine` bounds the most promising ones and divides them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from knn_jax import classifiers, neighbors
from knn_jax.certificates import cell_qp
from knn_jax.neighbors import search, top_k

HIGHEST = lax.Precision.HIGHEST
CUTS = 8  # rows of class y found at once
TOGETHER = 3  # branches of an image worked on at once
ENOUGH = 2.0  # times the upper bound: a branch that is farther is not solved
TOLERANCE = 4e-5  # relative to a distance: by how much the solver may miss a constraint


class Tree(NamedTuple):
    """What is known of each image so far.

    bound   (image, branch) lower bound on the distance to every cell of the branch; inf: no branch
    chosen  (image, branch, m) the rows in W as ranks among the rivals, falling; -1: none yet
    left    (image, branch, m - 1) the rows in E; -1: none yet
    rival   (image, rival) lower bound on the distance to where the rival is in W
    lower   (image,) the least bound of branches that are closed, or that there was no room for
    missed  (image,) the same of those without a point: the vote does not change at the one that was
            found, or there was no room for the branch
    upper   (image,) distance to the nearest point found at which the vote changes
    point   (image, dim) that point
    pool    (image, slot) rows of class y that programs know, the most recently used first; -1: none
    turns   (image,) how often the image was worked on
    """

    bound: Array
    chosen: Array
    left: Array
    rival: Array
    lower: Array
    missed: Array
    upper: Array
    point: Array
    pool: Array
    turns: Array

    def open(self):
        """Which images have a branch that may be nearer than the point."""
        return self.bound.min(1) < self.upper


def right(model, near, y):
    """Whether the vote of the k nearest rows is for class y."""
    voters = jnp.where(near.index < 0, classifiers.NOBODY, model.labels[near.index])
    return classifiers.right(neighbors.votes(voters, model.classes), y)


def lost(model, relative, absolute, y, point, w):
    """Whether class y loses the vote at the point, where the rows w of other classes are nearer.

    It lacks the majority by more than rounding can make up for, and with more than two classes the vote
    itself is asked. Beside it the rows of class y nearest to the point, and the squared distance to the
    farthest w.
    """
    (bank,) = model.banks
    m = w.shape[-1]
    found = search(point, bank, min(CUTS + m, len(bank)), labels=model.labels, only=y)
    z, to_z = found.index[:, None, m - 1 :], jnp.square(found.distance[:, None, m - 1 :])
    to_w = jnp.sum(jnp.square(point[:, None] - bank[w]), -1)
    rows = bank[w][:, :, None], bank[z]
    lengths = jnp.sum(jnp.square(rows[0] - rows[1]), -1)
    margin = cell_qp.margin(to_w[..., None], to_z, lengths, relative, absolute[:, None, None])
    nearer = (to_z - to_w[..., None]) / 2 >= margin
    equal = (rows[0] == rows[1]).all(-1)  # not so where lengths underflow
    nearer |= equal & (w[..., None] < z)  # equal rows are in the bank's order
    sure = (nearer | (z < 0)).all((1, 2))
    if model.classes > 2:  # the rows of other classes may be too divided to outvote y, or to tie ahead
        sure &= ~right(model, search(point, bank, model.k), y)
    return sure, found, to_w.max(-1)


def examine(model, relative, box, rival, query, y, absolute, tree):
    """The tree after one turn of work on the few branches with the least bounds.

    The dual of each branch's program tightens its bound. A branch whose W is not full is divided by the
    next row in W. Of those that are full, the one with the least bound is solved: if no other row of
    class y is nearer at its optimum, it is closed and divided by the next row in E; otherwise these
    rows enter the pool, and it stays open.
    """
    (bank,) = model.banks
    lane, m = jnp.arange(len(query)), tree.chosen.shape[-1]
    before, place = top_k(-tree.bound, TOGETHER)
    before, every = -before, (lane[:, None], place)
    needed = before < tree.upper[:, None]
    chosen, left = tree.chosen[every], tree.left[every]
    spare = jnp.sum(left < 0, -1)
    w_index = jnp.take_along_axis(rival[:, None], jnp.maximum(chosen, 0), -1)
    stays = (tree.pool >= 0)[:, None] & (tree.pool[:, None, :, None] != left[:, :, None]).all(-1)
    there = (needed[..., None] & (chosen >= 0))[..., None] & stays[:, :, None]
    cell, to_w, to_z, push = _programs(bank, relative, box, query, absolute, w_index, tree.pool, there)
    enough = jnp.broadcast_to(jnp.square(ENOUGH * tree.upper)[:, None] / 2, before.shape)
    weight = cell_qp.solve(cell._replace(lead=cell.lead + push), enough)
    lower = cell_qp.radius(cell, weight, to_w, to_z, relative) - 4 * absolute[:, None]
    lower = jnp.fmax(lower, before)
    without = _without(cell, weight, to_w, to_z, relative, spare, there.shape)
    without = jnp.fmax(without - 4 * absolute[:, None, None], before[..., None])
    bound = jnp.where(spare > 0, jnp.minimum(without.min(-1), lower), lower)

    full = (chosen >= 0).all(-1)
    least = lane, jnp.argmin(jnp.where(full, bound, jnp.inf), 1)
    point = jnp.clip(query + cell_qp.step(cell, weight)[least], *_edges(box))
    entered, found, reach = lost(model, relative, absolute, y, point, w_index[least])
    held = (found.index[..., None] == tree.pool[:, None]).any(-1)
    held |= (found.index[..., None] == left[least][:, None]).any(-1)
    new = (jnp.square(found.distance) < reach[:, None]) & ~held
    there = (full & needed)[least]
    new &= there[:, None]
    solved = there & ~new.any(1)
    norm = jnp.sqrt(jnp.sum(jnp.square(point - query), -1)) * (1 + relative)
    better = there & entered & (norm < tree.upper)
    upper = jnp.where(better, norm, tree.upper)

    alone = jnp.where(needed & (jnp.sum(chosen >= 0, -1) == 1), bound, 0.0)  # none that is divided
    known = tree.rival.at[lane[:, None], chosen[..., 0]].max(alone)
    grown = _grown(jnp.where(needed & ~full, bound, jnp.inf), chosen, left, known)
    used = weight.reshape(*place.shape, m, -1).sum(2)[least] > 0
    cut = jnp.where((solved & (spare[least] > 0))[:, None] & used, without[least], jnp.inf)
    cut = _cut(cut, chosen[least], left[least], tree.pool)
    divided = (needed & ~full).at[least].max(solved)
    tree = tree._replace(bound=tree.bound.at[every].set(jnp.where(divided, jnp.inf, bound)))
    tree = _insert(tree._replace(rival=known, upper=upper), grown)
    tree = _insert(tree, cut)

    use = jnp.where(tree.pool >= 0, jnp.where(used, 1, 2), 3)
    order = jnp.argsort(jnp.concatenate([jnp.where(new, 0, 3), use], 1), 1, stable=True)
    pool = jnp.concatenate([jnp.where(new, found.index, -1), tree.pool], 1)
    done = jnp.where(solved, lower[least], jnp.inf)
    return tree._replace(
        lower=jnp.minimum(tree.lower, done),
        missed=jnp.minimum(tree.missed, jnp.where(entered, jnp.inf, done)),
        point=jnp.where(better[:, None], point, tree.point),
        pool=jnp.take_along_axis(pool, order[:, : tree.pool.shape[1]], 1),
        turns=tree.turns + 1,
    )


def _edges(box):
    return (0.0, 1.0) if box else (-jnp.inf, jnp.inf)


def _programs(bank, relative, box, query, absolute, w, pool, there):
    """The quadratic programs of branches, the squared distances from the query to their w and z, and
    how far beyond a bisector a step must lead, so that rounding and the solver's tolerance leave it
    there."""
    w, z = bank[w], bank[pool]
    to_w = jnp.sum(jnp.square(w - query[:, None, None]), -1)[..., None]
    to_z = jnp.sum(jnp.square(z - query[:, None]), -1)[:, None, None]
    normal = w[:, :, :, None] - z[:, None, None]
    lengths = jnp.sum(jnp.square(normal), -1)
    margin = cell_qp.margin(to_w, to_z, lengths, relative, absolute[:, None, None, None])
    push = 1.25 * margin + TOLERANCE * jnp.sqrt(lengths) * jnp.sqrt(to_w)
    low, high = _edges(box)
    flat = *there.shape[:2], -1
    ends = *there.shape[:2], bank.shape[1]
    cell = cell_qp.Cell(
        normal=normal.reshape(*flat, bank.shape[1]),
        lead=((to_w - to_z) / 2).reshape(flat),
        there=there.reshape(flat),
        low=jnp.broadcast_to((low - query)[:, None], ends),
        high=jnp.broadcast_to((high - query)[:, None], ends),
    )
    to_w, to_z = (jnp.broadcast_to(leaf, there.shape).reshape(flat) for leaf in (to_w, to_z))
    return cell, to_w, to_z, push.reshape(flat)


def _without(cell, weight, far_w, far_z, relative, spare, shape):
    """The radius that the dual weights still prove once a row of the pool is in E, for each such row,
    whichever rows are in E besides: (lane, branch, slot)."""
    m = shape[2]
    slots = (*shape[:2], m, shape[3])
    parts = (weight[..., None] * cell.normal).reshape(*slots, -1).sum(2)
    leads = (weight * cell.lead).reshape(slots).sum(2)
    rest = leads.sum(-1, keepdims=True) - leads
    size = jnp.sum(jnp.square(parts.sum(-2, keepdims=True) - parts), -1)
    if m > 2:
        gram = jnp.maximum(jnp.einsum("lbsd,lbtd->lbst", parts, parts, precision=HIGHEST), 0.0).sum(-1)
        last = (spare <= 1)[..., None]
        size = jnp.where(last, size, gram.sum(-1, keepdims=True) - gram)
        most = jnp.maximum(top_k(leads, min(m - 2, shape[3]))[0], 0.0)
        taken = jnp.arange(most.shape[-1])[None, None] < (spare - 1)[..., None]
        rest = rest - jnp.sum(jnp.where(taken, most, 0.0), -1, keepdims=True)
    rest = jnp.maximum(rest, 0.0)
    scale = jnp.where(size > 0, rest / jnp.where(size > 0, size, 1.0), 0.0)
    value = scale * (rest - scale * size / 2)
    reach = jnp.sqrt(2 * value)
    lengths = jnp.sqrt(jnp.sum(jnp.square(cell.normal), -1))
    root_w, root_z = jnp.sqrt(far_w), jnp.sqrt(far_z)
    # (to_w + to_z + there) / 2 of `cell_qp.radius`, summed by weight, as a polynomial of the reach
    fixed = jnp.sum(weight * (far_w + far_z), -1)[..., None]
    linear = jnp.sum(weight * (root_w + root_z + lengths), -1)[..., None]
    wrong = scale * (fixed + linear * reach + weight.sum(-1)[..., None] * jnp.square(reach))
    wrong += 2 * value
    return jnp.sqrt(2 * jnp.maximum(value - 2 * relative * wrong, 0.0))


def _grown(bound, chosen, left, rival):
    """The branches with one more row in W, whose rank is below that of the last."""
    m = chosen.shape[-1]
    size = jnp.sum(chosen >= 0, -1, keepdims=True)
    last = jnp.take_along_axis(chosen, jnp.maximum(size - 1, 0), -1)
    other = jnp.arange(rival.shape[1], dtype=jnp.int32)[None, None]
    fits = (other < last) & (other >= m - size - 1)
    bound = jnp.where(fits, jnp.maximum(bound[..., None], rival[:, None]), jnp.inf)
    here = (jnp.arange(m)[None, None] == size)[:, :, None]
    chosen = jnp.where(here, other[..., None], chosen[:, :, None])
    left = jnp.broadcast_to(left[:, :, None], (*bound.shape, m - 1))
    flat = len(bound), -1
    return bound.reshape(flat), chosen.reshape(*flat, m), left.reshape(*flat, m - 1)


def _cut(bound, chosen, left, pool):
    """The branch with one more row in E, for each row of the pool."""
    here = jnp.arange(left.shape[-1])[None] == jnp.sum(left >= 0, -1, keepdims=True)
    left = jnp.where(here[:, None], pool[..., None], left[:, None])
    return bound, jnp.broadcast_to(chosen[:, None], (*bound.shape, chosen.shape[-1])), left


def _insert(tree, new):
    """The tree with new branches in the slots of those that cannot be nearest any more."""
    bound, chosen, left = new
    lane, slots = jnp.arange(len(bound))[:, None], tree.bound.shape[1]
    keep, vacant = bound < tree.upper[:, None], tree.bound >= tree.upper[:, None]
    find = jax.vmap(lambda v: jnp.nonzero(v, size=bound.shape[1], fill_value=slots)[0])
    slot = jnp.take_along_axis(find(vacant), jnp.maximum(jnp.cumsum(keep, 1) - 1, 0), 1)
    slot = jnp.where(keep, slot, slots)
    dropped = jnp.where(keep & (slot == slots), bound, jnp.inf).min(1)
    return tree._replace(
        bound=tree.bound.at[lane, slot].set(bound, mode="drop"),
        chosen=tree.chosen.at[lane, slot].set(chosen, mode="drop"),
        left=tree.left.at[lane, slot].set(left, mode="drop"),
        lower=jnp.minimum(tree.lower, dropped),
        missed=jnp.minimum(tree.missed, dropped),
    )
