"""Losses against numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knn_jax import losses

SCORES = [[1, 3, 2], [5, 0, -2], [4, 4, 0], [-1, -2, -3]]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int32])
def test_margin_is_the_lead_over_the_best_other_class(dtype):
    margin = losses.margin(jnp.asarray(SCORES, dtype), jnp.array([1, 1, 0, 2]))
    np.testing.assert_array_equal(margin, [1, -5, 0, -2])
    assert margin.dtype == dtype


def test_gradient_of_the_margin_is_one_at_the_class_and_minus_one_at_its_rival():
    gradient = jax.grad(lambda s: losses.margin(s, jnp.array([1, 1])).sum())
    scores = jnp.asarray(SCORES[:2], jnp.float32)
    np.testing.assert_array_equal(gradient(scores), [[0, 1, -1], [-1, 1, 0]])


def test_cross_entropy_is_minus_the_log_of_the_class_probability():
    """Logits log 1 and log 3 are probabilities 1/4 and 3/4."""
    logits = jnp.log(jnp.array([[1.0, 3.0], [1.0, 3.0], [2.0, 2.0]]))
    loss = losses.cross_entropy(logits, jnp.array([0, 1, 1]))
    np.testing.assert_allclose(loss, np.log([4, 4 / 3, 2]), rtol=1e-6)
