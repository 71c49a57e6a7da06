"""Local dimensions that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knn_jax import measures
from knn_jax.measures import local_dimension

pytestmark = pytest.mark.usefixtures("quick")


def ball(dim, rows, seed=0):
    """Points uniform in the unit ball of `dim` dimensions, turned into 12 dimensions."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(rows, dim))
    points *= rng.uniform(size=(rows, 1)) ** (1 / dim) / np.linalg.norm(points, axis=1, keepdims=True)
    turn = np.linalg.qr(rng.normal(size=(12, 12)))[0][:dim]
    return jnp.asarray(points @ turn, jnp.float32)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_dimension_of_a_ball_turned_into_more_is_found(dim):
    """At its centre, where no neighbour is missing; in 12 dimensions only `dim` have any extent."""
    bank = ball(dim, 4000)
    found = measures.lid(jnp.zeros((1, 12)), bank, k=1000)
    assert found.shape == (1,)
    assert found[0] == pytest.approx(dim, rel=0.1)  # the standard error is dim / sqrt(k)


def test_the_dimension_is_the_papers_formula():
    query, bank = jnp.split(jax.random.normal(jax.random.key(0), (210, 5)), [10])
    between = np.asarray(query, np.float64)[:, None] - np.asarray(bank)
    distance = np.sort(np.linalg.norm(between, axis=-1), 1)[:, :30]
    expected = -1 / np.log(distance / distance[:, -1:]).mean(1)
    np.testing.assert_allclose(measures.lid(query, bank, k=30), expected, rtol=1e-4)


def test_the_dimension_does_not_depend_on_scale_or_batch(monkeypatch):
    query, bank = ball(3, 7, seed=1) * 0.5, ball(3, 200)
    expected = measures.lid(query, bank, k=50)
    np.testing.assert_allclose(measures.lid(1e3 * query, 1e3 * bank, k=50), expected, rtol=1e-4)
    monkeypatch.setattr(local_dimension, "BATCH", 2)
    jax.clear_caches()
    np.testing.assert_allclose(measures.lid(query, bank, k=50), expected, rtol=1e-5)


def test_the_dimension_at_a_row_is_0_and_among_rows_equally_far_infinite():
    bank = jnp.array([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 2.0]])
    queries = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    np.testing.assert_array_equal(measures.lid(queries, bank, k=4), [0, np.inf])
    np.testing.assert_array_equal(measures.lid(queries[:1], jnp.zeros((4, 2)), k=3), [0])


@pytest.mark.parametrize(("k", "message"), [(1, "use 2 neighbours"), (5, "asked of a bank of 4 rows")])
def test_a_k_that_says_nothing_is_refused(k, message):
    with pytest.raises(ValueError, match=message):
        measures.lid(jnp.zeros((1, 2)), jnp.zeros((4, 2)), k=k)
