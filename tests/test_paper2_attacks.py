"""FGSM, its iterations, DeepFool and L-BFGS, where the boundary is known and for any classifier."""

import functools
import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import victims
from jax.tree_util import Partial
from victims import counted, flat, lengths

from knn_jax import attacks, balls, classifiers
from knn_jax.attacks import fast_gradient, outcome

SHAPE = (2, 2, 1)
KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("quick")
ATTACKS = {
    "fgsm": partial(attacks.fgsm, sizes=50),
    "ifgsm": partial(attacks.ifgsm, sizes=30, steps=4),
    "deepfool": attacks.deepfool,
    "deepfool-linf": partial(attacks.deepfool, norm="linf"),
    "lbfgs": partial(attacks.lbfgs, steps=15, rounds=5),
}
each = pytest.mark.parametrize("name", ATTACKS)
NORM = dict.fromkeys(ATTACKS, "l2") | {"deepfool-linf": "linf"}


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
BOUNDS = {  # of the norm, of what each attack may find above it
    "fgsm": (LEAD / np.abs(W).sum() * 2, 1.005),  # all four pixels move by eps: an L2 norm of 2 eps
    "ifgsm": (LEAD / np.abs(W).sum() * 2, 1.005),
    "deepfool": (LEAD / np.linalg.norm(W), 1.005),
    "deepfool-linf": (LEAD / np.abs(W).sum(), 1.005),
    "lbfgs": (LEAD / np.linalg.norm(W), 1.02),
}


@each
def test_it_finds_the_boundary_of_a_linear_network(name):
    """Where no pixel meets the box, and to a tenth of what a size or the overshoot leaves open."""
    nearest, above = BOUNDS[name]
    found = ATTACKS[name](KEY, LINEAR, X, Y)
    assert found.success.all()
    assert (LINEAR.margin(found.image, Y) <= 0).all()
    assert (found.norm >= nearest - 1e-5).all()
    assert (found.norm <= above * nearest + 1e-5).all()


def test_what_is_no_number_defends_nothing():
    broken = network(np.full((4, 3), np.nan), [0.0, 0.0, 0.0])
    assert ATTACKS["fgsm"](KEY, broken, X, Y + 1).success.all()


@pytest.fixture(scope="module")
def digits(quick):
    """A 3-NN of 200 digits, and five others, of which the last is wrong from the beginning."""
    model, x, y = victims.digits()
    right = np.flatnonzero(model.margin(x, y) > 0)[:5]
    return model, x[right], y[right].at[-1].add(1) % 10


@pytest.fixture(scope="module")
def found(digits):
    """What each attack finds against the digits, made once."""
    return functools.cache(lambda name: ATTACKS[name](KEY, *digits))


neighbors = pytest.mark.parametrize("name", ["ifgsm", "deepfool", "lbfgs"])


@neighbors
def test_images_stay_in_the_box_and_are_judged_by_the_hard_vote(found, digits, name):
    (model, x, y), result = digits, found(name)
    assert result.image.min() >= 0
    assert result.image.max() <= 1
    assert result.success.sum() > 2
    np.testing.assert_array_equal(result.success, model.margin(result.image, y) <= 0)
    expected = np.where(result.success, lengths(NORM[name], result.image - x), np.inf)
    np.testing.assert_allclose(result.norm, expected, rtol=1e-5)
    np.testing.assert_array_equal(result.image[~result.success], x[~result.success])


@neighbors
def test_an_image_wrong_already_is_left_alone(found, digits, name):
    np.testing.assert_array_equal(found(name).image[-1], digits[1][-1])
    assert found(name).norm[-1] == 0
    assert found(name).success[-1]


@each
def test_neither_jit_nor_the_batch_changes_an_image(name):
    """Two of the five, inside a caller's jit."""
    whole, part = ATTACKS[name](KEY, LINEAR, X, Y), jax.jit(ATTACKS[name])(KEY, LINEAR, X[:2], Y[:2])
    np.testing.assert_allclose(part.image, whole.image[:2], atol=5e-5)
    np.testing.assert_array_equal(part.success, whole.success[:2])


@each
def test_where_nothing_can_fool_the_clean_image_comes_back(name):
    """The other classes never reach the first within the box."""
    found = ATTACKS[name](KEY, network(np.stack([0 * W, W, -W], 1), [9.0, 0.0, 0.0]), X, Y)
    assert not found.success.any()
    assert np.isinf(found.norm).all()
    np.testing.assert_array_equal(found.image, X)


@each
def test_gradients_are_those_of_the_source(name):
    """Of a source whose boundary is another: only pixels that it looks at change."""
    seen = np.array([1.0, 0.0, 0.5, 0.0])
    source = network(np.stack([0 * seen, seen, -seen], 1), [1.0, 0.0, -9.0])
    found = ATTACKS[name](KEY, LINEAR, X, Y, source=source)
    changed = np.abs(flat(found.image - X)).max(0) > 1e-4
    np.testing.assert_array_equal(changed, seen != 0)
    assert found.success.all()
    assert (LINEAR.margin(found.image, Y) <= 0).all()


@each
def test_one_trace_serves_all_batches(name):
    features, passes = counted()  # the logits: a class for each pixel
    model = classifiers.network(features, X)
    passes["trace"] = 0
    for number in range(3):
        x = jax.random.uniform(jax.random.key(number), (3, *SHAPE))
        jax.block_until_ready(ATTACKS[name](KEY, model, x, jnp.zeros(3, jnp.int32)))
        first = passes["trace"] if number == 0 else first
    assert passes["trace"] == first > 0


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
    monkeypatch.setattr(fast_gradient, "LANES", lanes)
    least = jnp.array([1, 7, 99, 4, 2])

    def trial(example, number):
        return balls.over(number.astype(jnp.float32), (lanes, 1, 1, 1)), number >= least[example]

    x = jnp.zeros((5, 1, 1, 1))
    wrong = jnp.arange(5) == 4
    image, tried, fooled = jax.jit(partial(fast_gradient.least, trial))(x, wrong, jnp.int32(10))
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


@pytest.mark.parametrize(
    ("attack", "arguments", "message"),
    [
        (attacks.fgsm, {"sizes": 0}, "sizes=0: it must be above 0"),
        (attacks.fgsm, {"largest": 0.0}, "largest=0.0: it must be above 0"),
        (attacks.ifgsm, {"steps": 0}, "steps=0: it must be above 0"),
        (attacks.ifgsm, {"x": X * 9}, "images reach from"),
        (attacks.deepfool, {"steps": 0}, "steps=0: it must be above 0"),
        (attacks.deepfool, {"candidates": 1}, "candidates=1: 2 at least"),
        (attacks.deepfool, {"overshoot": -0.1}, "overshoot=-0.1: it must be 0 or more"),
        (attacks.deepfool, {"y": Y + 3}, "out of range of 3 classes"),
        (attacks.lbfgs, {"constant": 0.0}, "constant=0.0: it must be above 0"),
        (attacks.lbfgs, {"rounds": 0}, "rounds=0: it must be above 0"),
        (attacks.lbfgs, {"target": Y + 3}, "out of range of 3 classes"),
    ],
)
def test_what_cannot_be_attacked_is_refused(attack, arguments, message):
    usual = {"key": KEY, "model": LINEAR, "x": X, "y": Y}
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(attack)(**usual | arguments)


def test_a_batch_in_tiles_finds_the_same(monkeypatch):
    whole = attacks.deepfool(KEY, LINEAR, X, Y)
    monkeypatch.setattr(outcome, "BATCH", 2)
    jax.clear_caches()
    tiled = attacks.deepfool(KEY, LINEAR, X, Y)
    np.testing.assert_allclose(tiled.image, whole.image, atol=1e-5)
    assert tiled.gradients == whole.gradients
