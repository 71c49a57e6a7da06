"""What a search will take, before it is run."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from knn_jax.neighbors.distances import Name
from knn_jax.neighbors.metric import Metric
from knn_jax.neighbors.precision import Coarse
from knn_jax.neighbors.search import search
from knn_jax.values import given
from knn_jax.values.given import Whole

SAMPLE = 2**16, 128  # rows and queries that are timed


class Estimate(NamedTuple):
    """Memory beside the bank (exact, of the compiled program) and time (scaled from a sample)."""

    bank_bytes: int
    more_bytes: int
    seconds: float

    def __str__(self) -> str:
        bank, more = (f"{size / 2**20:,.0f} MB" for size in (self.bank_bytes, self.more_bytes))
        device = jax.devices()[0].device_kind
        return f"bank {bank}, {more} beside it, about {self.seconds:.2g} s on {device}"


def estimate(
    queries: Whole,
    rows: Whole,
    dim: Whole,
    k: Whole,
    *,
    dtype=jnp.float32,
    metric: Metric | Name = "l2",
    coarse: Coarse | None = None,
) -> Estimate:
    """Of `search` for so many queries in a bank of that shape and type.

    Compiles the search and times a sample of at most 2^16 random rows and 128 queries. Raises
    ValueError as `search` does.
    """
    sizes = {"queries": queries, "rows": rows, "dim": dim, "k": k}
    queries, rows, dim, k = (given.whole(name, size) for name, size in sizes.items())

    def compiled(queries, rows):
        query = jax.ShapeDtypeStruct((queries, dim), jnp.float32)
        bank = jax.ShapeDtypeStruct((rows, dim), dtype)
        found = jax.jit(lambda q, b: search(q, b, k, metric=metric, coarse=coarse))
        return found.lower(query, bank).compile()

    memory = compiled(queries, rows).memory_analysis()
    assert memory is not None
    some, few = min(rows, max(k, SAMPLE[0])), min(queries, SAMPLE[1])
    bank = jax.random.uniform(jax.random.key(0), (some, dim), maxval=255.0).astype(dtype)
    query = jax.random.uniform(jax.random.key(1), (few, dim), maxval=255.0)
    program = compiled(few, some)
    jax.block_until_ready(program(query, bank))
    start = time.perf_counter()
    jax.block_until_ready(program(query, bank))
    seconds = (time.perf_counter() - start) * (rows / some) * (queries / few)
    size = rows * dim * jnp.dtype(dtype).itemsize
    return Estimate(size, memory.temp_size_in_bytes + memory.output_size_in_bytes, seconds)
