"""Banks larger than a device's memory, searched piece by piece from the host's."""

import functools
import os
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num, PyTree

from knn_jax.neighbors.distances import Name, named
from knn_jax.neighbors.inputs import check, read_eligible
from knn_jax.neighbors.metric import Metric
from knn_jax.neighbors.precision import Coarse, check_coarse
from knn_jax.neighbors.result import Neighbors, merge
from knn_jax.neighbors.search import search_part
from knn_jax.values import given
from knn_jax.values.given import Lists, Whole

PIECE = 2**28  # bytes of the bank on the device at once, and as many on the way


def stream(
    query: Num[Array | np.ndarray, "*query dim"] | Lists,
    bank: Num[Array | np.ndarray, "row dim"] | Lists,
    k: Whole,
    *,
    metric: Metric | Name = "l2",
    coarse: Coarse | None = None,
    labels: Num[Array | np.ndarray, " row"] | Lists | None = None,
    only: Num[Array | np.ndarray, "*query_group"] | Lists | Whole | None = None,
    without: Num[Array | np.ndarray, "*query"] | Lists | Whole | None = None,
    rows: Whole | None = None,
    track: Callable[[range], Iterable[int]] = iter,
) -> Neighbors:
    """`search` of a bank in host memory or in a memory-mapped file, with the same result.

    The device holds two pieces of `rows` rows (256 MB of them by default) and O(query x k) beside
    them; the next piece is sent while one is searched. `track` wraps the range of pieces, for a
    progress bar.

    Raises ValueError as `search` does, and if the file of a memory map changes meanwhile.
    """
    metric = named(metric)
    check_coarse(coarse)
    query, k = given.array("query", query), given.whole("k", k)
    held: PyTree = given.rows("bank", bank)
    asked = read_eligible(labels, only, without)
    check(query, held, k, metric, *asked[:3])
    alone = query.ndim == 1
    if alone:
        query, *each = jax.tree.map(lambda leaf: leaf[None], (query, *asked.each))
        asked = asked.of(tuple(each))
    count, dim = held.shape
    size = PIECE // (dim * held.dtype.itemsize) if rows is None else given.whole("rows", rows)
    if rows is not None and size < 1:
        raise ValueError(f"pieces of {rows} rows: give at least 1")
    size = min(count, max(1, size))
    before = _stamp(held)
    found, previous = None, None
    for first in track(range(0, count, size)):
        # The last piece overlaps: all are searched by one program, so that equal rows tie.
        start = min(first, count - size)
        piece = slice(start, start + size)
        own = None if asked.labels is None else jnp.asarray(asked.labels[piece])
        there = jnp.arange(start, start + size) >= first if count % size else None
        eligible = asked._replace(labels=own, there=there)
        near = _piece(metric, coarse, query, jax.device_put(held[piece]), min(k, size), eligible, start)
        found = near if found is None else _merged(found, near, min(k, first + size))
        if _stamp(held) != before:
            raise ValueError(f"{held.filename} changed while it was searched: search it again")  # pyright: ignore
        jax.block_until_ready(previous)  # no more than two pieces are on the device
        previous = found
    assert found is not None
    return Neighbors(found.distance[0], found.index[0]) if alone else found


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def _piece(metric, coarse, query, piece, k, eligible, start):
    near = search_part(metric, coarse, query, piece, k, eligible)
    return Neighbors(near.distance, jnp.where(near.index < 0, -1, near.index + start))


_merged = jax.jit(merge, static_argnames="k")


def _stamp(bank: PyTree) -> tuple[int, int] | None:
    """Size and time of change of a memory map's file; None where there is no file (any more)."""
    if not isinstance(bank, np.memmap) or bank.filename is None or not os.path.exists(bank.filename):
        return None
    status = os.stat(bank.filename)
    return status.st_size, status.st_mtime_ns
