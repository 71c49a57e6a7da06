"""Attacks that search a Lagrangian's constant: guided, hinged and Carlini & Wagner's."""

import functools
import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from sklearn.datasets import load_digits

from knn_jax import attacks, classifiers
from knn_jax.attacks import lagrangian

SHAPE = (2, 2, 1)
KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("quick")


def flat(x):
    return x.reshape(x.shape[0], -1)


def lengths(delta):
    return np.linalg.norm(np.asarray(delta, np.float64).reshape(len(delta), -1), axis=1)


def linear(parameters, x):
    weights, bias = parameters
    return flat(x) @ weights + bias


def pixels(rows, labels, k=1, taps=1):
    """A classifier on pixels whose bank is `rows` (row, 4), in several equal taps."""
    rows = jnp.asarray(rows, jnp.float32).reshape(-1, *SHAPE)
    return classifiers.knn([flat] * taps, rows, jnp.asarray(labels), k=k)


@pytest.fixture(scope="module")
def digits(quick):
    """A 3-NN of 200 digits, the nearest of their means as a network, and five others both have right."""
    bunch = load_digits()
    images = jnp.asarray(bunch.images[..., None] / 16, jnp.float32)
    labels = jnp.asarray(bunch.target, jnp.int32)
    knn = classifiers.knn(flat, images[:200], labels[:200], k=3)
    means = np.stack([flat(images[:200])[labels[:200] == c].mean(0) for c in range(10)])
    parameters = jnp.asarray(2 * means.T), -jnp.sum(jnp.asarray(means) ** 2, 1)[None]
    network = classifiers.network(Partial(linear, parameters), images)
    x, y = images[200:230], labels[200:230]
    right = (knn.margin(x, y) > 0) & (network.margin(x, y) > 0)
    right = np.flatnonzero(right)[:5]
    return {"knn": knn, "network": network}, x[right], y[right]


ATTACKS = {
    "guided": partial(attacks.guided, guides=10, learning_rate=0.5, constant=1e-2, steps=40, rounds=6),
    "hinged": partial(attacks.hinged, guides=12, constant=0.3, steps=45, rounds=6, refresh=20),
    "carlini_wagner": partial(
        attacks.carlini_wagner, learning_rate=0.5, constant=1.0, steps=40, rounds=6
    ),
}
each = pytest.mark.parametrize("name", ATTACKS)


def attacked(digits, name):
    return digits[0]["network" if name == "carlini_wagner" else "knn"]


def attack(digits, name, x, y):
    """What it finds, against the classifier or the network's logits."""
    model = attacked(digits, name)
    return ATTACKS[name](KEY, model.logits if name == "carlini_wagner" else model, x, y)


@pytest.fixture(scope="module")
def found(digits):
    """What each attack finds, made once."""
    return functools.cache(lambda name: attack(digits, name, *digits[1:]))


@each
def test_all_are_found_inside_the_box_and_judged_by_the_hard_vote(digits, found, name):
    (_, x, y), result = digits, found(name)
    assert result.success.all()
    assert (attacked(digits, name).margin(result.image, y) <= 0).all()
    assert 0 <= result.image.min()
    assert result.image.max() <= 1
    np.testing.assert_allclose(result.norm, lengths(result.image - x), rtol=1e-5)
    assert (result.norm > 0).all()


def test_the_later_attack_is_the_stronger(digits, found):
    least = attacks.minimum_norm(KEY, digits[0]["knn"], *digits[1:], steps=20, starts=1)
    assert least.norm.mean() <= found("hinged").norm.mean() <= found("guided").norm.mean()


@each
def test_neither_the_batch_nor_the_callers_jit_changes_an_image(digits, found, name):
    _, x, y = digits
    part = jax.jit(lambda x, y: attack(digits, name, x, y))(x[:2], y[:2])
    np.testing.assert_allclose(part.image, found(name).image[:2], atol=1e-4)
    np.testing.assert_allclose(part.norm, found(name).norm[:2], rtol=1e-4)


@each
def test_an_image_wrong_already_is_left_alone(digits, name):
    _, x, y = digits
    result = attack(digits, name, x, (y + 1) % 10)
    np.testing.assert_array_equal(result.image, x)
    np.testing.assert_array_equal(result.norm, np.zeros(5))
    assert result.success.all()


@pytest.mark.parametrize(
    ("name", "settings", "gradients"),
    [
        ("guided", {"guides": 2, "steps": 3, "rounds": 2}, 6),
        ("hinged", {"guides": 2, "steps": 3, "rounds": 2, "refresh": 2}, 6),
        ("hinged", {"guides": 2, "steps": 2, "rounds": 2, "starts": 3}, 12),
        ("carlini_wagner", {"steps": 3, "rounds": 2}, 6),
    ],
    ids=["guided", "hinged", "hinged from three starts", "carlini_wagner"],
)
def test_it_counts_what_it_computes_and_is_traced_once(name, settings, gradients):
    """Counted by features that report each trace and, at run time, each pass through them."""
    passes = {"trace": 0, "forward": 0, "gradient": 0}

    def report(kind):
        passes[kind] += 1

    @jax.custom_vjp
    def features(x):
        report("trace")
        jax.debug.callback(report, "forward")
        return flat(x)

    def backward(shape, cotangent):
        jax.debug.callback(report, "gradient")
        return (cotangent.reshape(shape),)

    features.defvjp(lambda x: (flat(x), x.shape), backward)
    images = jax.random.uniform(jax.random.key(1), (8, *SHAPE))
    model = features
    if name != "carlini_wagner":
        model = classifiers.knn(features, images, jnp.arange(8) % 2, k=1)
    jax.effects_barrier()
    passes.update(forward=0)
    run = partial(getattr(attacks, name), **settings)
    found = run(KEY, model, images[:2] * 0.9, jnp.array([0, 1]))
    jax.effects_barrier()
    assert found.gradients == passes["gradient"] == gradients
    assert found.forwards == passes["forward"]

    traces = passes["trace"]
    settings = {"constant": 0.5, "learning_rate": 0.2}
    run(jax.random.key(1), model, images[2:4] * 0.9, jnp.array([1, 0]), **settings)
    assert passes["trace"] - traces == (name == "carlini_wagner")  # which asks for the logits' shape


OWN = [0.4, 0.5, 0.5, 0.45]
OTHER = [0.6, 0.55, 0.4, 0.7]


@pytest.mark.parametrize("taps", [1, 2])
@pytest.mark.parametrize("name", ["guided", "hinged"])
def test_it_comes_close_to_the_bisector_of_two_clusters(name, taps):
    """1-NN of two rows, the other class twice and a third far away: the boundary is a plane."""
    model = pixels([OWN, OTHER, OTHER, [0.95, 0.05, 0.95, 0.05]], [0, 2, 2, 1], taps=taps)
    x = jnp.array([OWN, [0.42, 0.5, 0.46, 0.45], [0.4, 0.48, 0.5, 0.4]], jnp.float32)
    lead = np.sum(np.subtract(x, OTHER) ** 2, 1) - np.sum(np.subtract(x, OWN) ** 2, 1)
    truth = lead / (2 * np.linalg.norm(np.subtract(OTHER, OWN)))
    run = partial(getattr(attacks, name), guides=2, learning_rate=0.02, steps=80, rounds=12)
    found = run(KEY, model, x.reshape(-1, *SHAPE), jnp.zeros(3, jnp.int32), constant=0.1)
    assert found.success.all()
    assert (found.norm >= truth - 1e-5).all()
    assert (found.norm <= 1.25 * truth).all()


W = np.array([[1.0, -2.0, 0.5, -0.25], [0.3, 0.2, -0.1, 0.4], [-1.0, 1.0, 1.0, 0.0]], np.float32).T


def test_carlini_wagner_comes_close_to_a_linear_networks_boundary():
    """min over c of (z_y - z_c) / |w_y - w_c|; twenty times the scale is the same boundary."""
    x = jnp.array([[0.5, 0.4, 0.5, 0.45], [0.42, 0.3, 0.46, 0.45], [0.6, 0.35, 0.5, 0.4]])
    logits = x @ W
    y = logits.argmax(1)
    truth = np.inf
    for c in range(3):
        lead = (logits[np.arange(3), y] - logits[:, c]) / np.linalg.norm(W.T[y] - W.T[c], axis=1)
        truth = np.minimum(truth, np.where(y == c, np.inf, lead))
    run = partial(attacks.carlini_wagner, learning_rate=0.02, steps=80)
    for scale in (1.0, 20.0):
        network = Partial(linear, (jnp.asarray(scale * W), jnp.zeros((1, 3))))
        found = run(KEY, network, x.reshape(-1, *SHAPE), y.astype(jnp.int32))
        assert found.success.all()
        assert (found.norm >= truth - 1e-5).all()
        assert (found.norm <= 1.25 * truth).all()
