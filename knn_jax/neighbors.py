"""Exact nearest-neighbour search: a tiled top-k matmul whose answers do not depend on the tiles."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

ROW_TILE = 4096  # rows of the bank scored at once
SCORES = 2**20  # query x group x row scores held at once: the tile that every size below divides
GATHERED = 2**25  # floats of neighbours' features held at once
ULP = 2.0**-24


class Neighbors(NamedTuple):
    """Nearest rows in order of distance.

    Where a query has fewer than k eligible rows the rest has distance inf and index -1.
    """

    distance: Float[Array, "query *group k"]
    index: Int[Array, "query *group k"]  # pyright: ignore[reportIncompatibleMethodOverride]


def search(
    query: Float[Array, "query dim"],
    bank: Float[Array, "row dim"],
    k: int,
    *,
    labels: Int[Array, " row"] | None = None,
    only: Int[Array, "query *group"] | None = None,
    without: Int[Array, " query"] | None = None,
) -> Neighbors:
    """The k rows of `bank` nearest to each query in Euclidean distance, exactly.

    With row `labels`, `only` restricts each query to the rows of one label (or, shaped (query,
    group), searches several labels in one pass over the bank) and `without` leaves one label out;
    `labels=arange(rows)` makes that leave-one-out.

    Rows are ranked by <q, b> - |b|^2/2 about the bank's mean, and the best few more than k again by
    sum((q - b)^2). A bound on the first pass's rounding tells whether a row could have been missed;
    only then are all rows compared directly. Rows at the same float32 distance come lower row
    first, whatever the tile or batch. Distances are differentiable in `query` and `bank` (zero
    gradient at q = b); indices carry none. Memory is one tile of scores beside the result. Under
    `vmap` both ways run for every query: pass a batch instead.

    Raises ValueError for a k that the bank cannot answer or shapes that do not fit.
    """
    _check(query, bank, k, labels, only, without)
    if labels is None:
        labels = jnp.zeros(bank.shape[0], jnp.int32)
    squeeze = only is None or only.ndim == 1
    if only is None:  # one group that every row belongs to, or every row but those of one label
        member = jnp.full((query.shape[0], 1), -1 if without is None else 0, jnp.int32)
        member = member if without is None else without[:, None]
        belongs = _not_equal
    else:
        member, belongs = only.reshape(query.shape[0], -1), jnp.equal
    count, groups = member.shape
    if count == 0:
        shape = (0, k) if squeeze else (0, groups, k)
        return Neighbors(jnp.zeros(shape, bank.dtype), jnp.zeros(shape, jnp.int32))

    # Under shard_map the groups must vary as the queries do: the scan's carry is made from them.
    member = member + 0 * lax.stop_gradient(query[:, :1]).astype(jnp.int32)
    mean = lax.stop_gradient(bank).mean(0, keepdims=True)
    row_tile = min(bank.shape[0], ROW_TILE)
    gathered = groups * (k + _spare(k)) * bank.shape[1]
    tile = max(1, min(count, SCORES // (groups * row_tile), GATHERED // gathered))

    @jax.checkpoint  # a gradient gathers the neighbours again rather than keeping all of them
    def one_tile(query, member):
        select = functools.partial(_select, k=k, belongs=belongs, row_tile=row_tile)
        index = select(*lax.stop_gradient((query, bank, mean)), labels, member)
        squared = _squared(query, bank, index)
        apart = (squared > 0) & (index >= 0)  # elsewhere the root's gradient would be NaN, not zero
        distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)
        return Neighbors(jnp.where(index < 0, jnp.inf, distance), index)

    near = in_tiles(one_tile, tile)(query, member)
    return Neighbors(*(leaf[:, 0] for leaf in near)) if squeeze else near


def votes(labels: Int[Array, "query k"], classes: int) -> Int[Array, "query class"]:
    """How many neighbours are of each class."""
    return jax.nn.one_hot(labels, classes, dtype=jnp.int32).sum(1)


def soft_votes(
    squared: Float[Array, "query class count"], k: int, temperature: float | Float[Array, ""]
) -> Float[Array, "query class"]:
    """Votes differentiable in the squared distances to each class's nearest rows.

    A row at distance d votes sigmoid((r - d^2) / (r temperature)), r halfway between the k-th and
    the next squared distance and held constant. At temperature 0 the k nearest vote 1 and the rest
    0, so these are the hard votes.
    """
    ordered = lax.stop_gradient(jnp.sort(squared.reshape(squared.shape[0], -1), -1))
    kth = ordered[:, k - 1]
    beyond = ordered[:, k] if ordered.shape[1] > k else 3 * kth
    r = ((kth + beyond) / 2)[:, None, None]
    scale = jnp.maximum(r * temperature, jnp.finfo(squared.dtype).tiny)
    return jax.nn.sigmoid((r - squared) / scale).sum(-1)


def top_k(values: Float[Array, "*batch n"], k: int) -> tuple[Array, Array]:
    """`lax.top_k` of any rank as one of rank 2: XLA's CPU backend sorts all values of a higher one."""
    found = lax.top_k(values.reshape(-1, values.shape[-1]), k)
    best, place = (out.reshape(*values.shape[:-1], k) for out in found)
    return best, place


def in_tiles(function, tile: int):
    """`function` of batched arrays, applied to at most `tile` examples at a time, in equal tiles."""

    def tiled(*args):
        count = jax.tree.leaves(args)[0].shape[0]
        if count <= tile:
            return function(*args)
        tiles = -(-count // tile)
        size = -(-count // tiles)

        def split(leaf):
            padding = jnp.broadcast_to(leaf[:1], (tiles * size - count, *leaf.shape[1:]))
            return jnp.concatenate([leaf, padding]).reshape(tiles, size, *leaf.shape[1:])

        out = lax.map(lambda args: function(*args), jax.tree.map(split, args))
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], out)

    return tiled


def _not_equal(label, member):
    return label != member


def _spare(k):
    """Candidates kept beyond k, so that a near tie at the k-th place rarely needs the slow way."""
    return 8 + k // 4


def _squared(query, bank, index):
    """Squared distance to the rows `index` (query, group, k), free of cancellation."""
    return jnp.sum(jnp.square(query[:, None, None] - bank[index]), -1)


def _rank(squared, index, k):
    """The k smallest, the lower row first among equals, as (squared, index)."""
    squared, index = lax.sort((squared, index), num_keys=2)
    return squared[..., :k], index[..., :k]


def _select(query, bank, mean, labels, member, *, k, belongs, row_tile):
    """Indices (query, group, k) of the nearest rows, -1 where there is none."""
    rows, dim = bank.shape
    kept = min(rows, k + _spare(k))
    centred = query - mean

    def tiles(step, init):
        """Folds `step(carry, row ids, features, eligible)` over the bank's tiles."""

        def body(carry, number):
            first = jnp.minimum(number * row_tile, rows - row_tile)  # the last tile overlaps
            ids = first + jnp.arange(row_tile, dtype=jnp.int32)
            features = lax.dynamic_slice_in_dim(bank, first, row_tile)
            label = lax.dynamic_slice_in_dim(labels, first, row_tile)
            eligible = belongs(label[None, None], member[..., None])
            return step(carry, ids, features, eligible & (ids >= number * row_tile)[None, None]), None

        return lax.scan(body, init, jnp.arange(-(-rows // row_tile), dtype=jnp.int32))[0]

    def keep(carry, score, ids):
        """Merges a tile's scores into the best so far; on a tie lax.top_k takes the lower row."""
        score = jnp.concatenate([carry[0], score], -1)
        ids = jnp.broadcast_to(ids, (*score.shape[:-1], ids.shape[-1]))
        best, place = top_k(score, carry[0].shape[-1])
        return best, jnp.take_along_axis(jnp.concatenate([carry[1], ids], -1), place, -1)

    def nothing(width):
        # Made from the query, so that under shard_map the carry varies as the tiles do.
        empty = jnp.full((*member.shape, width), -jnp.inf) + 0 * query[:, :1, None]
        return empty, jnp.full(empty.shape, -1, jnp.int32) + 0 * member[..., None]

    def by_matmul(carry, ids, features, eligible):
        best, largest = carry
        features = features - mean
        norm = jnp.sum(jnp.square(features), -1)
        product = jnp.matmul(centred, features.T, precision=lax.Precision.HIGHEST)
        score = jnp.where(eligible, (product - norm[None] / 2)[:, None], -jnp.inf)
        return keep(best, score, ids), jnp.maximum(largest, norm.max())

    (score, index), largest = tiles(by_matmul, (nothing(kept), 0 * mean[0, 0]))
    squared = jnp.where(index < 0, jnp.inf, _squared(query, bank, index))
    squared, index = _rank(squared, index, k)

    # Rounding of a score, at most: D + 8 roundings of each product and norm, in any order of sums.
    own = jnp.sum(jnp.square(centred), -1)
    slack = 4 * (dim + 8) * ULP * (own + largest)
    missed = own[:, None] - 2 * score[..., -1] - slack[:, None]  # no row left out is nearer
    certain = (score[..., -1] == -jnp.inf) | (missed > squared[..., -1])
    certain |= kept == rows

    def directly(carry, ids, features, eligible):
        score = -jnp.sum(jnp.square(query[:, None] - features[None]), -1)
        return keep(carry, jnp.where(eligible, score[:, None], -jnp.inf), ids)

    def every_row():
        score, index = tiles(directly, nothing(k))
        return _rank(-score, index, k)[1]

    index = lax.cond(jnp.all(certain), lambda: index, every_row)
    return index


def _check(query, bank, k, labels, only, without):
    rows = bank.shape[0]
    if rows == 0:
        raise ValueError("the bank is empty: give it at least one row")
    if not 1 <= k <= rows:
        raise ValueError(f"k={k} neighbours asked of a bank of {rows} rows: use 1 to {rows}")
    if query.ndim != 2 or bank.ndim != 2 or query.shape[1] != bank.shape[1]:
        raise ValueError(
            f"query {query.shape} and bank {bank.shape} must be (query, dim) and (row, dim) of one dim"
        )
    if (labels is None) != (only is None and without is None):
        raise ValueError("labels go with only= or without=, and those with labels")
    if only is not None and without is not None:
        raise ValueError("only= and without= exclude each other: give one of them")
