"""Banks larger than a device's memory, searched piece by piece from the host's."""

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

from knn_jax.neighbors import metrics
from knn_jax.neighbors.answer import Neighbors, merge
from knn_jax.neighbors.nearest import search

PIECE = 2**28  # bytes of the bank on the device at once, and as many on the way


def stream(
    query: Num[Array, "query dim"],
    bank: Num[np.ndarray, "row dim"],
    k: int,
    *,
    metric: metrics.Metric | metrics.Name = "l2",
    coarse: metrics.Coarse | None = None,
    labels: Int[np.ndarray, " row"] | None = None,
    only: Int[Array, "query *group"] | None = None,
    without: Int[Array, " query"] | None = None,
    rows: int | None = None,
    track: Callable[[range], Iterable[int]] = iter,
) -> Neighbors:
    """`search` of a bank in host memory or in a memory-mapped file, with the same result.

    The device holds two pieces of `rows` rows (256 MB of them unless told) and O(query x k) beside
    them; the next piece is sent while one is searched. `track` wraps the range of pieces, for a
    progress bar.

    Raises ValueError as `search` does, and if the file of a memory map changes meanwhile.
    """
    count, dim = bank.shape
    if not 1 <= k <= count:
        raise ValueError(f"k={k} neighbours asked of a bank of {count} rows: use 1 to {count}")
    rows = rows or max(1, PIECE // (dim * bank.dtype.itemsize))
    before = _stamp(bank)
    found, previous = None, None
    for first in track(range(0, count, rows)):
        piece = jax.device_put(bank[first : first + rows])
        own = None if labels is None else jnp.asarray(labels[first : first + rows])
        near = _piece(query, piece, own, only, without, first, min(k, len(piece)), metric, coarse)
        found = near if found is None else _merged(found, near, min(k, first + len(piece)))
        if _stamp(bank) != before:
            raise ValueError(f"{bank.filename} changed while it was searched: search it again")  # pyright: ignore
        jax.block_until_ready(previous)  # no more than two pieces are on the device
        previous = found
    assert found is not None
    return found


@functools.partial(jax.jit, static_argnames=("k", "metric", "coarse"))
def _piece(query, piece, labels, only, without, first, k, metric, coarse):
    near = search(
        query, piece, k, metric=metric, coarse=coarse, labels=labels, only=only, without=without
    )
    return Neighbors(near.distance, jnp.where(near.index < 0, -1, near.index + first))


_merged = jax.jit(merge, static_argnames="k")


def _stamp(bank: Any) -> tuple[int, int] | None:
    """Size and time of change of a memory map's file."""
    if not isinstance(bank, np.memmap) or bank.filename is None:
        return None
    status = os.stat(bank.filename)
    return status.st_size, status.st_mtime_ns
