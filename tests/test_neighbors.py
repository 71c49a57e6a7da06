"""Search against float64 brute force, and its invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knn_jax import neighbors


def brute(query, bank, k):
    """Distances and indices in float64, ties to the lower row."""
    query, bank = np.asarray(query, np.float64), np.asarray(bank, np.float64)
    distance = np.sqrt(((query[:, None] - bank[None]) ** 2).sum(-1))
    index = np.argsort(distance, 1, kind="stable")[:, :k]
    return np.take_along_axis(distance, index, 1), index


def sample(kind, rows=300, queries=9, dim=12):
    rng = np.random.default_rng(0)
    bank, query = rng.normal(size=(rows, dim)), rng.normal(size=(queries, dim))
    if kind == "clustered":
        centres = 50 * rng.normal(size=(5, dim))
        bank = bank * 0.1 + centres[rng.integers(5, size=rows)]
        query = query * 0.1 + centres[rng.integers(5, size=queries)]
    if kind == "offset":
        bank, query = bank + 1000, query + 1000
    if kind == "duplicated":
        bank = np.repeat(bank[: rows // 10], 10, 0)
    if kind == "grid":
        bank, query = rng.integers(0, 2, size=bank.shape), rng.integers(0, 2, size=query.shape)
    return jnp.asarray(query, jnp.float32), jnp.asarray(bank, jnp.float32)


@pytest.mark.parametrize("kind", ["gaussian", "clustered", "offset", "duplicated", "grid"])
@pytest.mark.parametrize("k", [1, 7, 300])
def test_agrees_with_float64_brute_force(kind, k):
    query, bank = sample(kind)
    near = neighbors.search(query, bank, k)
    distance, index = brute(query, bank, k)
    np.testing.assert_allclose(near.distance, distance, rtol=2e-6, atol=1e-6)
    if kind in ("duplicated", "grid"):  # ties, where the lower row must come first
        np.testing.assert_array_equal(near.index, index)
