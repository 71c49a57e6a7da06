"""Batches in equal tiles, and how large the tiles are."""

import jax
import jax.numpy as jnp
from jax import lax

DIRECT = 2**23  # numbers that are subtracted to measure every row, where that is sooner than a matmul
SMALL = 10_240  # rows of a bank that is scored less its centre, since to copy it costs little
WHOLE = 2**17  # a float32 bank of so many rows is scored where it lies, without copying tiles of it
TILE = 2**24  # numbers of a larger bank that are copied and scored at once
SCORES = 3 * 2**20  # query x group x row scores held at once on a CPU, where they should stay in cache
SCORES_ACCELERATOR = 2**28
GATHERED = 2**21  # numbers of neighbours' features held at once on a CPU, for its cache too
GATHERED_ACCELERATOR = 2**26
MEASURED = 2**25  # numbers that are subtracted at once where all rows are measured


def row_tile(rows: int, dim: int, whole: bool) -> int:
    """Rows of a bank that are scored at once; `whole` if it is float32 and needs no conversion."""
    if whole and rows <= WHOLE:
        return rows
    tiles = -(-rows // min(max(TILE // dim, 1024), 2**15))
    return -(-rows // tiles)


def span(number, size: int, rows: int):
    """The first row of a tile, and which are new, None if all: the last tile overlaps."""
    first = jnp.minimum(number * size, rows - size)
    return first, first + jnp.arange(size) >= number * size if rows % size else None


def query_tile(queries: int, groups: int, rows: int) -> int:
    """Queries that are scored at once against a tile of rows."""
    scores = SCORES if jax.default_backend() == "cpu" else SCORES_ACCELERATOR
    return max(1, min(queries, scores // (groups * rows)))


def gathered(numbers: int) -> int:
    """Queries whose neighbours' features, so many numbers each, are held at once."""
    held = GATHERED if jax.default_backend() == "cpu" else GATHERED_ACCELERATOR
    return max(1, held // numbers)


def in_tiles(function, tile: int):
    """`function` of batched arrays, applied to at most `tile` examples at a time, in equal tiles.

    Neighbours in a batch go to different tiles, so that where the batch lies on several devices each
    has its part of every tile.
    """

    def tiled(*args):
        count = jax.tree.leaves(args)[0].shape[0]
        if count <= tile:
            return function(*args)
        tiles = -(-count // tile)
        size = -(-count // tiles)

        def split(leaf):
            if tiles * size > count:
                padding = jnp.broadcast_to(leaf[:1], (tiles * size - count, *leaf.shape[1:]))
                leaf = jnp.concatenate([leaf, padding])
            return leaf.reshape(size, tiles, *leaf.shape[1:]).swapaxes(0, 1)

        def join(leaf):
            return leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:])[:count]

        return jax.tree.map(join, lax.map(lambda args: function(*args), jax.tree.map(split, args)))

    return tiled
