"""What bounds need of a bank: a centre, a summary of each row, and which rows are finite."""

import jax.numpy as jnp
from jax import lax

from knn_jax.neighbors import tiles
from knn_jax.neighbors.plan import floating

SAMPLE = 1024  # rows whose mean is the centre


def summarise(bank, plan):
    """The centre of a sample of rows, the metric's summary of all rows about it, which rows are finite,
    and whether the summaries of all these are."""
    dtype = floating(bank)
    step = max(1, len(bank) // SAMPLE)
    sample = bank[::step].astype(dtype)
    centre = jnp.where(jnp.isfinite(sample), sample, 0).mean(0, keepdims=True)
    rows, dim = bank.shape

    def summarised(part):
        return plan.metric.summary(part.astype(dtype), centre)

    def finite(part):
        return jnp.max(jnp.abs(part.astype(dtype)), -1) < jnp.inf

    def of_all(function):
        if bank.dtype == dtype:
            return function(bank)

        # A tile at a time: XLA would convert the whole bank first.
        size = tiles.row_tile(rows, dim, False)

        def tile(number):
            first, _ = tiles.span(number, size, rows)
            return first, function(lax.dynamic_slice_in_dim(bank, first, size))

        def next_tile(found, number):
            first, part = tile(number)
            return lax.dynamic_update_slice_in_dim(found, part, first, 0), None

        _, part = tile(0)
        found = jnp.zeros((rows, *part.shape[1:]), part.dtype).at[:size].set(part)
        return lax.scan(next_tile, found, jnp.arange(1, -(-rows // size), dtype=jnp.int32))[0]

    summary = of_all(summarised)
    known = jnp.max(jnp.abs(summary.reshape(rows, -1)), -1) < jnp.inf
    usable = lax.cond(known.all(), lambda: known, lambda: of_all(finite))
    return centre, summary, usable, (known | ~usable).all()
