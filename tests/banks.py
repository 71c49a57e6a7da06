"""Banks to search, and their nearest rows in float64."""

import jax.numpy as jnp
import numpy as np


def sample(kind, rows, queries, dim=12, levels=2):
    """Query and bank (NumPy), whose kinds try ties wherever a bank may be cut."""
    rng = np.random.default_rng(0)
    bank, query = rng.normal(size=(rows, dim)), rng.normal(size=(queries, dim))
    if kind == "short":  # numbers whose squares are summed without rounding, in any order
        bank, query = np.round(bank * 16) / 16, np.round(query * 16) / 16
    if kind == "grid":
        bank, query = (rng.integers(0, levels, size=a.shape) for a in (bank, query))
    if kind in ("duplicated", "outlier"):  # in all parts
        bank = np.resize(bank[: rows // 10], bank.shape)
    if kind == "outlier":  # so far away that its part's matmul decides nothing
        bank[rows // 8] = 1e5
    if kind == "equal":
        bank = np.resize(bank[:1], bank.shape)
    return jnp.asarray(query, jnp.float32), np.asarray(bank, np.float32)


def brute(query, bank, k, eligible=True):
    """Distances and indices in float64, ties to the lower row; inf and -1 beyond the eligible."""
    query, bank = np.asarray(query, np.float64), np.asarray(bank, np.float64)
    distance = np.sqrt(((query[:, None] - bank[None]) ** 2).sum(-1))
    distance = np.where(eligible, distance, np.inf)
    index = np.argsort(distance, 1, kind="stable")[:, :k]
    distance = np.take_along_axis(distance, index, 1)
    return distance, np.where(np.isinf(distance), -1, index)


def same(near, expected):
    """Bit for bit."""
    np.testing.assert_array_equal(near.index, expected.index)
    np.testing.assert_array_equal(near.distance, expected.distance)
