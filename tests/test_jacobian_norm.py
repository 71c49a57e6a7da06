"""The norms of Jacobians that are known."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from sklearn.datasets import load_digits

from knn_jax import measures, nets
from knn_jax.measures.jacobian_norm import DOUBT, JacobianNorm, lanczos_steps

pytestmark = pytest.mark.usefixtures("quick")


def flat(x):
    return x.reshape(x.shape[0], -1)


@pytest.fixture(scope="module")
def trunk(quick):
    """The second layer of an untrained network, and three digits."""
    net = nets.ConvNet(((8, 3, 2, 1), (8, 2, 1, 0))).build(10)
    images = jnp.asarray(load_digits().images[:3, ..., None] / 16, jnp.float32)
    variables = jax.jit(net.init)(jax.random.key(0), images)
    return lambda x: net.apply(variables, x)[1]["relu2"], images


def test_the_jacobian_norm_is_the_largest_singular_value(trunk):
    features, x = trunk
    jacobian = jax.jit(jax.vmap(jax.jacfwd(lambda image: features(image[None])[0])))(x)
    expected = [
        np.linalg.norm(np.asarray(one, np.float64).reshape(len(one), -1), 2) for one in jacobian
    ]
    found = measures.jacobian_norm(features, x, tolerance=1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


WEIGHTS = jax.random.normal(jax.random.key(0), (16, 6))
IMAGES = jax.random.uniform(jax.random.key(1), (5, 4, 4, 1))


def test_the_jacobian_norm_of_a_linear_map_grows_to_its_norm_from_below():
    features, truth = Partial(lambda w, x: flat(x) @ w, WEIGHTS), np.linalg.norm(WEIGHTS, 2)
    found = [measures.jacobian_norm(features, IMAGES, steps=n, tolerance=1e-9) for n in (1, 3, 10, 99)]
    found = np.stack(found)
    assert (np.diff(found, axis=0) >= -1e-5).all()
    assert (found[0] < 0.99 * truth).all()
    assert (found <= truth * (1 + 1e-5)).all()
    np.testing.assert_allclose(found[-1], truth, rtol=1e-5)


@pytest.mark.parametrize("pixel", [0, 326, 783])
@pytest.mark.parametrize("rest", [1.0, 0.0], ids=["ones", "zeros"])
def test_a_single_stretched_pixel_is_found(pixel, rest):
    """All of 90 images, by a start of their own; at 326 one start for all has next to nothing."""
    scale = jnp.full((1, 784), rest).at[0, pixel].set(5.0)
    x = jax.random.uniform(jax.random.key(2), (90, 28, 28, 1))
    found = measures.jacobian_norm(Partial(lambda scale, x: scale * flat(x), scale), x)
    np.testing.assert_allclose(found, 5, rtol=1e-5)


def test_it_keeps_what_it_promises_where_singular_values_lie_close():
    """300 of them evenly from 4 to 5, turned; one in a million starts may be farther off than told."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(300, 300)))[0]
    matrix = jnp.asarray(turn * np.linspace(4, 5, 300), jnp.float32)
    features = Partial(lambda m, x: flat(x) @ m, matrix)
    x = jnp.zeros((30, 15, 20, 1))
    few, some = (np.asarray(measures.jacobian_norm(features, x, tolerance=t)) for t in (0.1, 0.01))
    for found, tolerance in ((few, 0.1), (some, 0.01)):
        assert (found <= 5 * (1 + 1e-5)).all()
        assert (found >= 5 * (1 - tolerance)).all()
    assert few.mean() < some.mean()
    assert len(np.unique(few)) > 20  # each image has a start of its own


@pytest.mark.parametrize("tolerance", [0.3, 0.1, 0.01, 0.001])
def test_as_many_steps_as_the_theorem_asks_for(tolerance):
    steps, error = lanczos_steps(10**6, tolerance), 1 - (1 - tolerance) ** 2
    for count, enough in ((steps, True), (steps - 1, False)):
        doubt = 1.648 * 10**3 * np.exp(-np.sqrt(error) * (2 * count - 1))
        assert (doubt <= DOUBT) == enough
    assert lanczos_steps(7, tolerance) == 7 if steps > 7 else True


def test_the_tile_and_what_is_beside_an_image_change_nothing(monkeypatch):
    """But for its place, by which its start is drawn."""
    features = Partial(lambda w, x: flat(jnp.sin(9 * x)) @ w, WEIGHTS)
    whole = measures.jacobian_norm(features, IMAGES, steps=3)
    np.testing.assert_allclose(
        measures.jacobian_norm(features, IMAGES[:1], steps=3), whole[:1], rtol=1e-5
    )
    monkeypatch.setattr(sys.modules[JacobianNorm.__module__], "HELD", 2)
    jax.clear_caches()
    np.testing.assert_allclose(measures.jacobian_norm(features, IMAGES, steps=3), whole, rtol=1e-5)


def test_the_jacobian_norm_of_a_constant_is_0():
    np.testing.assert_array_equal(measures.jacobian_norm(lambda x: 0 * flat(x), IMAGES), np.zeros(5))


def test_the_jacobian_norm_is_found_where_a_grey_image_is_mapped_to_zero():
    found = measures.jacobian_norm(lambda x: 3 * (flat(x) - x.mean((1, 2))), IMAGES)
    np.testing.assert_allclose(found, 3, rtol=1e-5)


@pytest.mark.parametrize("numbers", [{"steps": 0}, {"tolerance": 0.0}])
def test_an_iteration_that_cannot_run_is_refused(numbers):
    with pytest.raises(ValueError, match="above 0"):
        measures.jacobian_norm(flat, IMAGES, **numbers)
