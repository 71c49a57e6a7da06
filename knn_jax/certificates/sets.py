"""The exact radius for odd k > 1: the distance to the nearest cell of a set of rows.

With m = (k + 1) / 2, class y lacks the majority at a point exactly where m rows W of other classes
are as near as every row of class y but m - 1, E. Where W and E are given that is a quadratic
program. Best first, a branch decides W row by row and then E: of the rows that its optimum stands
against one must be in E, or leaving others out does not shorten the way (Matousek 1995).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from knn_jax import losses, neighbors
from knn_jax.certificates import cells
from knn_jax.certificates.bisectors import every_cell
from knn_jax.certificates.sides import majority, sides
from knn_jax.neighbors import in_tiles, search, top_k

HIGHEST = lax.Precision.HIGHEST
BATCH = 64  # images whose branches are held
SCORED = 2**22  # distances of (image, own row, row)
NEAR = 32  # own rows, those of class y, that bound every row's cell at first
RIVALS = 128  # rows of other classes of which sets are made
OPEN = 4096  # branches of an image
POOL = 64  # own rows that a program knows
CUTS = 8  # own rows found at once
ENDS = 8  # nearest rows of other classes that may be a first point
LANES = 16  # images worked on at once
BRANCHES = 4  # of each of them
WORK = 4000  # turns of an image, before what is left open is returned so
TOLERANCE = 4e-5  # of a distance: what the solver may leave of a constraint


class _Tree(NamedTuple):
    """Of each image so far.

    bound   (image, branch) on the distance to every cell of the branch; inf: none
    chosen  (image, branch, m) places in the order of rivals of the rows in W, falling; -1: none yet
    left    (image, branch, m - 1) own rows in E; -1: none yet
    rival   (image, rival) bound on the distance to where the rival is in W
    lower   (image,) the least bound of what is in no branch: solved, or too much to hold
    dropped (image,) that of the latter alone
    upper   (image,)
    point   (image, dim)
    pool    (image, slot) own rows, those last of use first; -1: none
    turns   (image,) of work
    """

    bound: Array
    chosen: Array
    left: Array
    rival: Array
    lower: Array
    dropped: Array
    upper: Array
    point: Array
    pool: Array
    turns: Array

    def open(self):
        """Which images have a branch that may be nearer than the point."""
        return self.bound.min(1) < self.upper


def bracket(model: Any, x, y, lipschitz, *, box: bool):
    """`exact`'s lower, upper, closed and point for odd k above 1."""
    (bank,) = model.banks
    rows = bank.shape[0]
    norms = jnp.sum(jnp.square(bank), -1)
    _, m = majority(model.k)
    rivals = min(RIVALS, rows - 1)
    slots = max(OPEN, 2 * rivals)
    pool = max(POOL, NEAR + CUTS)

    def batch(x, y):
        query = model.features[0](x)
        count = len(x)
        near = sides(model, query, y, max(NEAR, m), max(ENDS, m))
        relative = near.relative + m * pool * 2.0**-24  # of sums over the pixels, and over the pool
        bisectors = functools.partial(every_cell, model, norms, relative, place=m)
        bound = in_tiles(bisectors, max(1, SCORED // (rows * NEAR)))(query, y, near.own)
        least, rival = top_k(-bound, rivals + 1)
        least = jnp.maximum(-least - 4 * near.absolute[:, None], 0.0)
        first = jnp.where(jnp.arange(rivals)[None] < m - 1, jnp.inf, least[:, :rivals])
        wrong = fooled(model, query, y)
        upper, point = _first(model, relative, query, y, near)
        own = near.own.index
        tree = _Tree(
            bound=jnp.pad(first, ((0, 0), (0, slots - rivals)), constant_values=jnp.inf),
            chosen=jnp.full((count, slots, m), -1, jnp.int32)
            .at[:, :rivals, 0]
            .set(jnp.arange(rivals, dtype=jnp.int32)[None]),
            left=jnp.full((count, slots, m - 1), -1, jnp.int32),
            rival=least[:, :rivals],
            lower=least[:, rivals],
            dropped=least[:, rivals],
            upper=jnp.where(wrong, 0.0, upper),
            point=jnp.where(wrong[:, None], query, point),
            pool=jnp.pad(own, ((0, 0), (0, pool - own.shape[1])), constant_values=-1),
            turns=jnp.zeros(count, jnp.int32),
        )
        lanes = min(LANES, count)

        def go(tree):
            return tree.open() & (tree.turns < WORK)

        def work(tree):
            (lane,) = jnp.nonzero(go(tree), size=lanes, fill_value=count)
            some = (rival[:, :rivals], query, y, near.absolute, tree)
            some = jax.tree.map(lambda leaf: leaf.at[lane].get(mode="clip"), some)
            new = _examine(model, relative, box, *some)
            return jax.tree.map(lambda a, b: a.at[lane].set(b, mode="drop"), tree, new)

        tree = lax.while_loop(lambda tree: go(tree).any(), work, tree)
        lower = jnp.minimum(jnp.minimum(tree.lower, tree.bound.min(1)), tree.upper)
        closed = ~tree.open() & (tree.dropped >= tree.upper)
        return lower / lipschitz, tree.upper / lipschitz, closed, tree.point

    return in_tiles(batch, BATCH)(x, y)


def fooled(model, query, y):
    """Whether the vote at these features is against class y."""
    near = search(query, model.banks[0], model.k)
    return losses.margin(neighbors.votes(model.labels[near.index], model.classes), y) <= 0


def _lost(model, relative, absolute, y, point, w):
    """Whether class y lacks the majority at the point by more than rounding can make, the rows w of
    other classes being nearer, and the vote is against it; the rows of class y nearest to the point,
    and the squared distance to the farthest w."""
    (bank,) = model.banks
    m = w.shape[-1]
    found = search(point, bank, min(CUTS + m, len(bank)), labels=model.labels, only=y)
    z, to_z = found.index[:, None, m - 1 :], jnp.square(found.distance[:, None, m - 1 :])
    to_w = jnp.sum(jnp.square(point[:, None] - bank[w]), -1)
    lengths = jnp.sum(jnp.square(bank[w][:, :, None] - bank[z]), -1)
    margin = cells.margin(to_w[..., None], to_z, lengths, relative, absolute[:, None, None])
    nearer = (to_z - to_w[..., None]) / 2 >= margin
    nearer |= (lengths == 0) & (w[..., None] < z)  # equal rows are in the bank's order
    lost = (nearer | (z < 0)).all((1, 2))
    if m > 2 and model.classes > 2:  # else another class has as many votes
        lost &= fooled(model, point, y)
    return lost, found, to_w.max(-1)


def _first(model, relative, query, y, near):
    """The nearest of a few rows of other classes at which class y is lost; inf: none."""
    (bank,) = model.banks
    _, m = majority(model.k)
    ends = near.other.index[:, : min(ENDS, near.other.index.shape[1])]

    def one(best, end):
        point = bank[end]
        w = search(point, bank, m, labels=model.labels, without=y)
        lost, _, _ = _lost(model, relative, near.absolute, y, point, w.index)
        lost &= (w.index >= 0).all(-1) & (end >= 0)
        norm = jnp.sqrt(jnp.sum(jnp.square(point - query), -1)) * (1 + relative)
        norm = jnp.where(lost, norm, jnp.inf)
        upper, at = best
        better = norm < upper
        return (jnp.where(better, norm, upper), jnp.where(better[:, None], point, at)), None

    start = jnp.full(len(query), jnp.inf), query
    return lax.scan(one, start, ends.T)[0]


def _examine(model, relative, box, rival, query, y, absolute, tree):
    """What is known after work on the branches of the least bounds: all are bounded better, those
    that lack rows in W are divided; of the others the least is solved and divided by the rows left
    out, or else rows are found that are in the way."""
    (bank,) = model.banks
    lanes, rivals = rival.shape
    dim, m = bank.shape[1], tree.chosen.shape[-1]
    lane = jnp.arange(lanes)
    low, high = (0.0, 1.0) if box else (-jnp.inf, jnp.inf)
    before, place = top_k(-tree.bound, BRANCHES)
    before = -before
    needed = before < tree.upper[:, None]
    chosen = jnp.take_along_axis(tree.chosen, place[..., None], 1)
    left = jnp.take_along_axis(tree.left, place[..., None], 1)
    size, out = jnp.sum(chosen >= 0, -1), jnp.sum(left >= 0, -1)
    w_index = jnp.take_along_axis(rival[:, None], jnp.maximum(chosen, 0), -1)
    w, z = bank[w_index], bank[tree.pool]
    to_w = jnp.sum(jnp.square(w - query[:, None, None]), -1)
    to_z = jnp.sum(jnp.square(z - query[:, None]), -1)
    stays = (tree.pool >= 0)[:, None] & (tree.pool[:, None, :, None] != left[:, :, None]).all(-1)
    there = needed[..., None, None] & (chosen >= 0)[..., None] & stays[:, :, None]
    shape = there.shape
    normal = w[:, :, :, None] - z[:, None, None]
    lengths = jnp.sum(jnp.square(normal), -1)
    lead = (to_w[..., None] - to_z[:, None, None]) / 2
    pairs = *shape[:2], -1
    cell = cells.Cell(
        normal=normal.reshape(*pairs, dim),
        lead=lead.reshape(pairs),
        there=there.reshape(pairs),
        low=jnp.broadcast_to((low - query)[:, None], (*shape[:2], dim)),
        high=jnp.broadcast_to((high - query)[:, None], (*shape[:2], dim)),
    )
    # The way leads beyond what rounding and the solver leave; its weights bound the radius anyway.
    push = 1.25 * cells.margin(
        to_w[..., None], to_z[:, None, None], lengths, relative, absolute[:, None, None, None]
    )
    push += TOLERANCE * jnp.sqrt(lengths * to_w[..., None])
    weight = cells.solve(cell._replace(lead=(lead + push).reshape(pairs)))
    far_w = jnp.broadcast_to(to_w[..., None], shape).reshape(pairs)
    far_z = jnp.broadcast_to(to_z[:, None, None], shape).reshape(pairs)
    lower = cells.radius(cell, weight, far_w, far_z, relative) - 4 * absolute[:, None]
    lower = jnp.fmax(lower, before)
    spare = m - 1 - out
    without = _without(cell, weight, far_w, far_z, relative, spare, shape) - 4 * absolute[:, None, None]
    without = jnp.fmax(without, before[..., None])
    bound = jnp.where(spare > 0, jnp.minimum(without.min(-1), lower), lower)
    grown_bound = bound

    single = jnp.where(size == 1, bound, 0.0)
    known = tree.rival.at[lane[:, None], chosen[..., 0]].max(single)
    full = size == m
    least = jnp.argmin(jnp.where(full, bound, jnp.inf), 1)
    solved = full[lane, least] & needed[lane, least]
    point = jnp.clip(query + cells.step(cell, weight)[lane, least], low, high)
    lost, found, to_w = _lost(model, relative, absolute, y, point, w_index[lane, least])
    norm = jnp.sqrt(jnp.sum(jnp.square(point - query), -1)) * (1 + relative)
    better = solved & lost & (norm < tree.upper)
    upper = jnp.where(better, norm, tree.upper)
    held = (found.index[..., None] == tree.pool[:, None]).any(-1)
    held |= (found.index[..., None] == left[lane, least][:, None]).any(-1)
    new = solved[:, None] & (jnp.square(found.distance) < to_w[:, None]) & ~held
    solved &= ~new.any(1)

    # Branches in place of those divided.
    divided = needed & ~full
    divided = divided.at[lane, least].max(solved)
    bound = jnp.where(divided | ~needed, jnp.inf, bound)
    bound = tree.bound.at[lane[:, None], place].set(bound)
    last = jnp.take_along_axis(chosen, jnp.maximum(size - 1, 0)[..., None], -1)
    other = jnp.arange(rivals, dtype=jnp.int32)[None, None]
    fits = (other < last) & (other >= (m - size - 1)[..., None])
    grown = jnp.where(
        (divided & ~full)[..., None] & fits, jnp.maximum(grown_bound[..., None], known[:, None]), jnp.inf
    )
    slot = jnp.arange(m)[None, None] == size[..., None]
    grown_chosen = jnp.where(slot[:, :, None], other[..., None], chosen[:, :, None])
    grown_left = jnp.broadcast_to(left[:, :, None], (*grown.shape, m - 1))
    weights = jnp.sum(weight.reshape(shape), 2)[lane, least]
    more = solved & (spare[lane, least] > 0)
    cut = jnp.where(more[:, None] & (weights > 0), without[lane, least], jnp.inf)
    cut_chosen = jnp.broadcast_to(chosen[lane, least][:, None], (*cut.shape, m))
    slot = jnp.arange(m - 1)[None] == out[lane, least][:, None]
    cut_left = jnp.where(slot[:, None], tree.pool[..., None], left[lane, least][:, None])
    flat = (lanes, -1)
    values = jnp.concatenate([grown.reshape(flat), cut], 1)
    sets = jnp.concatenate([grown_chosen.reshape(*flat, m), cut_chosen], 1)
    outs = jnp.concatenate([grown_left.reshape(*flat, m - 1), cut_left], 1)
    bound, sets, outs, dropped = _insert(tree, upper, bound, values, sets, outs)

    used = weights > 0
    use = jnp.where(tree.pool >= 0, jnp.where(used, 1, 2), 3)
    order = jnp.argsort(jnp.concatenate([jnp.where(new, 0, 3), use], 1), 1, stable=True)
    pool = jnp.concatenate([jnp.where(new, found.index, -1), tree.pool], 1)
    done = jnp.where(solved, lower[lane, least], jnp.inf)
    return _Tree(
        bound=bound,
        chosen=sets,
        left=outs,
        rival=known,
        lower=jnp.minimum(jnp.minimum(tree.lower, dropped), done),
        dropped=jnp.minimum(tree.dropped, dropped),
        upper=upper,
        point=jnp.where(better[:, None], point, tree.point),
        pool=jnp.take_along_axis(pool, order[:, : tree.pool.shape[1]], 1),
        turns=tree.turns + 1,
    )


def _without(cell, weight, far_w, far_z, relative, spare, shape):
    """The radius that the weights prove for each row of the pool in E, with all it takes to fill E
    up: (lane, branch, slot)."""
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
    # (to_w + to_z + there) / 2 of `cells.radius`, summed by weight, as a polynomial of the reach
    fixed = jnp.sum(weight * (far_w + far_z), -1)[..., None]
    linear = jnp.sum(weight * (root_w + root_z + lengths), -1)[..., None]
    wrong = scale * (fixed + linear * reach + weight.sum(-1)[..., None] * jnp.square(reach))
    wrong += 2 * value
    return jnp.sqrt(2 * jnp.maximum(value - 2 * relative * wrong, 0.0))


def _insert(tree, upper, bound, values, sets, outs):
    """The branches with new ones in the slots of those that are no longer needed, and the least bound
    of what there is no room for."""
    lanes, slots = bound.shape
    lane = jnp.arange(lanes)[:, None]
    keep = values < upper[:, None]
    free = bound >= upper[:, None]
    count = values.shape[1]
    vacant = jax.vmap(lambda f: jnp.nonzero(f, size=count, fill_value=slots)[0])(free)
    order = jnp.maximum(jnp.cumsum(keep, 1) - 1, 0)
    slot = jnp.where(keep, jnp.take_along_axis(vacant, order, 1), slots)
    dropped = jnp.where(keep & (slot == slots), values, jnp.inf).min(1)
    bound = bound.at[lane, slot].set(values, mode="drop")
    sets = tree.chosen.at[lane, slot].set(sets, mode="drop")
    return bound, sets, tree.left.at[lane, slot].set(outs, mode="drop"), dropped
