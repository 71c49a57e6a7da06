"""Banks larger than a device's memory, searched piece by piece from the host's."""

import functools
import os
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num

from knn_jax.neighbors.distances import Name, named
from knn_jax.neighbors.inputs import check, read_eligible
from knn_jax.neighbors.metric import Metric
from knn_jax.neighbors.plan import Eligible
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
    bank = bank if hasattr(bank, "shape") else given.array("bank", bank)  # of a file: not all at once
    labels, only, without, _ = read_eligible(labels, only, without)
    check(query, bank, k, metric, labels, only, without)
    if query.ndim == 1:
        query, only, without = (one if one is None else one[None] for one in (query, only, without))
        near = stream(
            query,
            bank,
            k,
            metric=metric,
            coarse=coarse,
            labels=labels,
            only=only,
            without=without,
            rows=rows,
            track=track,
        )
        return Neighbors(near.distance[0], near.index[0])
    count, dim = bank.shape
    size = PIECE // (dim * bank.dtype.itemsize) if rows is None else given.whole("rows", rows)
    if rows is not None and size < 1:
        raise ValueError(f"pieces of {rows} rows: give at least 1")
    size = min(count, max(1, size))
    before = _stamp(bank)
    found, previous = None, None
    for first in track(range(0, count, size)):
        # The last piece overlaps: all are searched by one program, so that equal rows tie.
        start = min(first, count - size)
        piece = slice(start, start + size)
        own = None if labels is None else jnp.asarray(labels[piece])
        there = np.arange(start, start + size) >= first if count % size else None
        eligible = Eligible(own, only, without, there)
        near = _piece(metric, coarse, query, jax.device_put(bank[piece]), min(k, size), eligible, start)
        found = near if found is None else _merged(found, near, min(k, first + size))
        if _stamp(bank) != before:
            raise ValueError(f"{bank.filename} changed while it was searched: search it again")  # pyright: ignore
        jax.block_until_ready(previous)  # no more than two pieces are on the device
        previous = found
    assert found is not None
    return found


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def _piece(metric, coarse, query, piece, k, eligible, start):
    near = search_part(metric, coarse, query, piece, k, eligible)
    return Neighbors(near.distance, jnp.where(near.index < 0, -1, near.index + start))


_merged = jax.jit(merge, static_argnames="k")


def _stamp(bank: np.ndarray) -> tuple[int, int] | None:
    """Size and time of change of a memory map's file; None where there is no file (any more)."""
    if not isinstance(bank, np.memmap) or bank.filename is None or not os.path.exists(bank.filename):
        return None
    status = os.stat(bank.filename)
    return status.st_size, status.st_mtime_ns
