"""Banks and queries to search, what the answers must be, and how far those found are off."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SLICE = 10**6  # rows that are made and checked at once, of a bank too large for the host
FREEDOM = 20  # degrees of freedom of bytes
SPREAD = 45.0  # root mean square of a byte: vectors of 128 are as long as SIFT's


def made(rows: int, dim: int, queries: int, dtype: str) -> tuple[jax.Array, jax.Array]:
    """Gaussian (query, bank), of the host's random numbers in float32, else `on_device`."""
    if dtype != "float32":
        return on_device(rows, dim, queries, dtype)
    random = np.random.default_rng(0)
    bank = jnp.asarray(random.standard_normal((rows, dim), np.float32))
    query = jnp.asarray(random.standard_normal((queries, dim), np.float32))
    return jax.block_until_ready((query, bank))


def on_device(rows: int, dim: int, queries: int, dtype: str) -> tuple[jax.Array, jax.Array]:
    """(query, bank) made on the device, slice by slice: the bank is never anywhere else.

    Floats are Gaussian. Bytes (uint8) have few degrees of freedom, as real data have, and many ties;
    the queries are then whole numbers in float32.
    """
    size = min(rows, SLICE)
    directions = jax.random.normal(jax.random.key(2), (FREEDOM, dim)) * SPREAD / FREEDOM**0.5

    def drawn(key, count):
        if dtype != "uint8":
            return jax.random.normal(key, (count, dim))
        return jnp.clip(
            jnp.round(jnp.abs(jax.random.normal(key, (count, FREEDOM)) @ directions)), 0, 255
        )

    @jax.jit
    def filled(key):
        def fill(number, bank):
            part = drawn(jax.random.fold_in(key, number), size).astype(dtype)
            first = jnp.minimum(number * size, rows - size)
            return lax.dynamic_update_slice_in_dim(bank, part, first, 0)

        return lax.fori_loop(0, -(-rows // size), fill, jnp.zeros((rows, dim), dtype))

    return jax.block_until_ready((drawn(jax.random.key(1), queries), filled(jax.random.key(0))))


def reference(query: jax.Array, bank: jax.Array, k: int, subspaces: int = 1) -> np.ndarray:
    """The k smallest distances (query, k) by brute force, in float64 where the host has room."""
    if bank.dtype != jnp.float32:
        return sliced(query, bank, k)
    wide, rows = np.asarray(query, np.float64), np.asarray(bank)
    found = []
    for first in range(0, len(rows), 2**16):
        part = rows[first : first + 2**16].astype(np.float64)
        distance = 0.0
        for q, b in zip(*(np.split(x, subspaces, 1) for x in (wide, part)), strict=True):
            squared = np.square(q).sum(1)[:, None] - 2 * q @ b.T + np.square(b).sum(1)
            distance += np.sqrt(np.maximum(squared, 0))
        found.append(distance)
    return np.sort(np.partition(np.concatenate(found, 1), k - 1, 1)[:, :k], 1)


def sliced(query: jax.Array, bank: jax.Array, k: int) -> np.ndarray:
    """The k smallest distances by direct comparison in float32, a slice of the bank at a time."""
    found = np.moveaxis(np.asarray(_smallest(query, bank, k)), 0, 1).reshape(len(query), -1)
    return np.sqrt(np.sort(found, 1)[:, :k])


@functools.partial(jax.jit, static_argnames="k")
def _smallest(query, bank, k):
    """The k smallest squares of each slice, (slice, query, k)."""
    rows = len(bank)
    size = min(rows, max(SLICE, k))

    def in_slice(number):
        first = jnp.minimum(number * size, rows - size)
        part = lax.dynamic_slice_in_dim(bank, first, size).astype(jnp.float32)
        again = first + jnp.arange(size) < number * size  # the last slice overlaps the one before

        def nearest(q):
            return -lax.top_k(-jnp.where(again, jnp.inf, jnp.square(part - q).sum(1)), k)[0]

        return lax.map(nearest, query)

    return lax.map(in_slice, jnp.arange(-(-rows // size)))


def error(
    distance: np.ndarray,
    index: np.ndarray,
    query: np.ndarray,
    bank: jax.Array,
    nearest: np.ndarray,
    subspaces: int = 1,
) -> float:
    """How far distances are off, relatively: those told, and those of the rows named."""
    if any(len(set(row)) < len(row) for row in index.tolist()):
        return float("inf")
    named = np.sort(named_distances(index, query, bank, subspaces), 1)
    return float(max(np.abs(distance / nearest - 1).max(), np.abs(named / nearest - 1).max()))


def named_distances(
    index: np.ndarray, query: np.ndarray, bank: jax.Array, subspaces: int = 1
) -> np.ndarray:
    """The distances (query, k) of the rows that are named, in float64."""
    rows = np.asarray(bank[index]).astype(np.float64)
    apart = np.asarray(query).astype(np.float64)[:, None] - rows
    apart = apart.reshape(*index.shape, subspaces, -1)
    return np.linalg.norm(apart, axis=-1).sum(-1)
