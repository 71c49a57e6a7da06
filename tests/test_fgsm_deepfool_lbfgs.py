"""What FGSM, its iterations, DeepFool and L-BFGS do that no other attack does."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from victims import flat

from knn_jax import attacks, balls, classifiers
from knn_jax.attacks import batches

SHAPE = (2, 2, 1)
KEY = jax.random.key(0)
HOME = inspect.getmodule(attacks.FGSM)
pytestmark = pytest.mark.usefixtures("quick")


def linear(parameters, x):
    weights, bias = parameters
    return flat(x) @ weights + bias


def network(weights, bias):
    parameters = jnp.asarray(weights, jnp.float32), jnp.asarray(bias, jnp.float32)[None]
    return classifiers.network(Partial(linear, parameters), jnp.zeros((1, *SHAPE)))


# Class 0 unless w . x is above 0.3; class 2 is never near.
W = np.array([1.0, -2.0, 0.5, 0.25])
LINEAR = network(np.stack([0 * W, W, -W], 1), [0.3, 0.0, -9.0])
X = jax.random.uniform(jax.random.key(1), (5, *SHAPE), minval=0.35, maxval=0.65)
Y = jnp.zeros(5, jnp.int32)
LEAD = 0.3 - np.asarray(flat(X), np.float64) @ W


def test_what_is_no_number_defends_nothing():
    broken = network(np.full((4, 3), np.nan), [0.0, 0.0, 0.0])
    assert attacks.fgsm(KEY, broken, X, Y + 1, sizes=50).success.all()


def steep(x):
    """Two classes whose boundary is at a pixel's 0.33 and 0.5, the other way from 0.42 on."""
    pixel = flat(x)[:, :1]
    lead = jnp.where((pixel > 0.33) & (pixel < 0.42), -0.1, 0.1) + 0 * pixel - jax.nn.relu(pixel - 0.5)
    return jnp.concatenate([lead - pixel * 1e-3, jnp.zeros_like(lead)], 1)


def test_the_least_size_is_the_first_that_fools_though_larger_ones_do_not():
    """At 0.3 of 1: sizes of 0.05 meet the window from 0.33 to 0.42 at 0.05 and 0.1 only."""
    model = classifiers.network(steep, X)
    x = jnp.full((1, *SHAPE), 0.3)
    found = attacks.fgsm(KEY, model, x, Y[:1], sizes=20, norm="linf")
    assert found.success.all()
    assert 0.03 <= found.norm[0] < 0.031


@pytest.mark.parametrize("lanes", [1, 3, 64])
def test_lanes_try_every_size_of_every_example_until_one_fools(monkeypatch, lanes):
    """Examples that fool at 1, 7, never and at 4, and one that is wrong already."""
    monkeypatch.setattr(HOME, "LANES", lanes)
    least = jnp.array([1, 7, 99, 4, 2])

    def trial(example, number):
        return balls.over(number.astype(jnp.float32), (lanes, 1, 1, 1)), number >= least[example]

    x = jnp.zeros((5, 1, 1, 1))
    wrong = jnp.arange(5) == 4
    image, tried, fooled = jax.jit(partial(HOME.least, trial))(x, wrong, jnp.int32(10))
    np.testing.assert_array_equal(flat(image)[:, 0], [1, 7, 0, 4, 0])
    np.testing.assert_array_equal(fooled, [True, True, False, True, True])
    assert tried[4] == 0
    assert (tried[:4] >= np.array([1, 7, 10, 4])).all()
    if lanes == 1:
        np.testing.assert_array_equal(tried, [1, 7, 10, 4, 0])


def test_lbfgs_goes_to_the_target():
    """By default to the third class, which is the nearer; the second is reached all the same."""
    weights = np.stack([0 * W, W, -2 * np.roll(W, 1)], 1)
    model = network(weights, [1.0, 0.0, 0.0])
    second, third = (
        attacks.lbfgs(KEY, model, X, Y, target=jnp.full(5, target), steps=20) for target in (1, 2)
    )
    usual = attacks.lbfgs(KEY, model, X, Y, steps=20)
    np.testing.assert_array_equal(model.predict(second.image + 1e-4 * (second.image - X)), [1] * 5)
    assert (model.predict(third.image + 1e-4 * (third.image - X)) == 2).any()
    assert (usual.norm <= 1.001 * third.norm).all()
    assert (third.norm < second.norm).all()


def test_lbfgs_goes_as_near_as_deepfool_where_the_likeliest_class_is_not_the_nearest():
    """The second class is likeliest and has hardly a slope."""
    model = network(np.stack([0 * W, W / 50, W], 1), [0.0, -0.01, -0.3])
    found, walk = attacks.lbfgs(KEY, model, X, Y, steps=20), attacks.deepfool(KEY, model, X, Y)
    assert (model.logits(X)[:, 1] > model.logits(X)[:, 2]).any()
    assert (found.norm <= 1.001 * walk.norm).all()


def test_deepfool_goes_to_the_nearest_of_its_candidates():
    """With two candidates that is the likeliest other class, though a third is nearer."""
    model = network(np.stack([0 * W, W / 50, W], 1), [0.0, -0.01, -0.3])
    two, three = (attacks.deepfool(KEY, model, X, Y, candidates=count) for count in (2, 10))
    np.testing.assert_allclose(three.norm, LEAD / np.linalg.norm(W), rtol=1e-2)
    assert (three.norm < two.norm).any()
    assert two.gradients >= 1
    assert three.gradients % 2 == 0


def test_a_class_alone_has_no_boundary_and_a_target_must_be_a_class():
    with pytest.raises(ValueError, match="candidates=1"):
        attacks.DeepFool(candidates=1)
    with pytest.raises(ValueError, match="3 classes"):
        attacks.lbfgs(KEY, LINEAR, X, Y, target=Y + 3)


def test_a_batch_in_tiles_finds_the_same(monkeypatch):
    whole = attacks.deepfool(KEY, LINEAR, X, Y)
    monkeypatch.setattr(batches, "BATCH", 2)
    jax.clear_caches()
    tiled = attacks.deepfool(KEY, LINEAR, X, Y)
    np.testing.assert_allclose(tiled.image, whole.image, atol=1e-5)
    assert tiled.gradients == whole.gradients
