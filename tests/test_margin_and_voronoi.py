"""Margin and Voronoi against exact distances, an attack, and by searching for a counterexample."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from points import classifier, exact, images
from sklearn.datasets import load_digits

from knn_jax import attacks, certificates, classifiers

pytestmark = pytest.mark.usefixtures("quick")
both = pytest.mark.parametrize("certify", [certificates.margin, certificates.voronoi])


def fooled(point, rows, labels, y, k):
    """Whether y has no lead in the votes of the k nearest in float64; ties of distance against y."""
    distance = np.sum((np.asarray(rows, np.float64) - point) ** 2, -1)
    order = np.lexsort((labels == y, distance))[:k]
    votes = np.bincount(labels[order], minlength=labels.max() + 1)
    own, votes[y] = votes[y], -1
    return own <= votes.max()


@pytest.fixture(scope="module")
def digits(quick):
    """(bank images, labels), then 12 other images and labels."""
    bunch = load_digits()
    x = jnp.asarray(bunch.images[:212, ..., None] / 16, jnp.float32)
    y = jnp.asarray(bunch.target[:212], jnp.int32)
    return (x[:200], y[:200]), (x[200:], y[200:])


@pytest.mark.parametrize(
    ("rows", "labels", "x", "margin", "voronoi"),
    [
        ([[0.2, 0.5], [0.8, 0.5]], [0, 1], [0.3, 0.5], 0.2, 0.2),
        ([[0.2, 0.5], [0.8, 0.5]], [0, 1], [0.3, 0.7], (0.29**0.5 - 0.05**0.5) / 2, 0.2),
        ([[0.2, 0.5], [0.8, 0.5], [0.2, 0.9]], [0, 1, 1], [0.2, 0.6], 0.1, 0.1),
        ([[0.0, 0.0], [0.0, 0.6], [0.8, 0.0]], [0, 0, 1], [0.2, 0.0], 0.2, 0.2),
        ([[0.0, 0.0], [1.0, 0.5], [0.5, 0.5]], [0, 0, 1], [0.0, 0.0], 0.5**0.5 / 2, 0.5**0.5 / 2),
        ([[0.45, 0.5], [0.5, 0.6], [0.5, 0.8]], [0, 0, 1], [0.5, 0.5], 0.125, 0.2),
        ([[0.5, 0.5], [0.5, 0.5]], [0, 1], [0.4, 0.5], 0.0, 0.0),
    ],
    ids=[
        "on the line",
        "off the line",
        "three rows",
        "own rows",
        "at a row",
        "second nearest helps",
        "same rows",
    ],
)
def test_radii_worked_by_hand(rows, labels, x, margin, voronoi):
    model, y = classifier(rows, labels), jnp.array([0])
    np.testing.assert_allclose(certificates.margin(model, images([x]), y), [margin], atol=3e-5)
    np.testing.assert_allclose(certificates.voronoi(model, images([x]), y), [voronoi], atol=3e-5)


def test_the_voronoi_radius_comes_close_to_the_exact_distance():
    """Within 1% for 3 points in 10 at least."""
    rng, dim = np.random.default_rng(3), 3
    rows = rng.uniform(size=(12, dim)).astype(np.float32)
    labels = np.arange(12) % 3
    x = rng.uniform(size=(20, dim)).astype(np.float32)
    model = classifier(rows, labels)
    y = model.predict(images(x))
    voronoi = np.asarray(certificates.voronoi(model, images(x), y))
    truth = np.array([exact(p, rows, labels, c) for p, c in zip(x, np.asarray(y), strict=True)])
    assert (voronoi <= truth + 1e-7).all()
    assert np.mean(voronoi > 0.99 * truth - 1e-5) > 0.3


def test_no_attack_on_a_5_nn_of_the_digits_comes_below_a_certificate(digits):
    (rows, labels), (x, y) = digits
    model = classifiers.knn(None, rows, labels, k=5)
    margin, voronoi = certificates.margin(model, x, y), certificates.voronoi(model, x, y)
    found = attacks.minimum_norm(jax.random.key(0), model, x, y, steps=8, starts=2, refresh=4)
    assert found.success.all()
    assert (margin <= voronoi + 1e-6).all()
    assert (voronoi <= found.norm).all()
    assert (margin > 0).sum() >= 6


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("kind", ["apart", "mixed"])
def test_no_perturbation_just_below_the_radius_changes_the_vote(k, kind):
    """Random ones, and ones towards every row of another class and away from every own one."""
    rng = np.random.default_rng(k)
    labels = np.arange(18) % 3
    rows = rng.uniform(size=(18, 2))
    if kind == "apart":
        rows = 0.25 * rows + np.array([[0.0, 0.0], [0.7, 0.1], [0.3, 0.7]])[labels]
    rows = rows.astype(np.float32)
    x = (rows[:15] + 0.05 * rng.uniform(-1, 1, (15, 2)).astype(np.float32)).clip(0, 1)
    y = np.asarray(labels[:15], np.int32)
    model = classifier(rows, labels, k=k)
    certified = 0
    for certify in (certificates.margin, certificates.voronoi):
        radius = np.asarray(certify(model, images(x), jnp.asarray(y)), np.float64)
        certified += (radius > 0).sum()
        for point, c, r in zip(x.astype(np.float64), y, radius, strict=True):
            if r == 0:
                continue
            ways = np.concatenate([rng.normal(size=(300, 2)), rows - point, point - rows])
            ways /= np.maximum(np.linalg.norm(ways, axis=1, keepdims=True), 1e-12)
            moved = point + 0.9999 * min(r, 10) * ways
            assert not any(fooled(p, rows, labels, c, k) for p in moved)
    assert certified > 5


@both
def test_rounding_never_certifies_more_than_the_exact_distance(certify):
    """Two rows, so that the exact distance to the bisector follows in float64 from the pixels."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(400, 3)).astype(np.float32)
    for scale in (1.0, 1000.0):
        for _ in range(3):
            rows = rng.uniform(0, 1, size=(2, 3)).astype(np.float32)
            model = classifier(rows, [0, 1], scale=scale)
            y = np.asarray(model.predict(images(x)))
            own, other = (rows.astype(np.float64)[c] for c in (y, 1 - y))
            lead = np.sum((x - other) ** 2, 1) - np.sum((x - own) ** 2, 1)
            truth = np.maximum(lead / (2 * np.linalg.norm(own - other, axis=1)), 0)
            radius = np.asarray(certify(model, images(x), jnp.asarray(y), lipschitz=scale), np.float64)
            assert (radius <= truth).all()
            if certify is certificates.voronoi:
                assert (radius >= 0.999 * truth - 1e-4).all()


@both
def test_a_vote_that_cannot_change_has_an_infinite_radius(certify):
    """Two of three neighbours are of class 0 whatever the image."""
    model = classifier([[0.1, 0.1], [0.2, 0.1], [0.3, 0.3], [0.9, 0.9]], [0, 0, 0, 1], k=3)
    np.testing.assert_array_equal(certify(model, images([[0.8, 0.8]]), jnp.array([0])), [np.inf])
    np.testing.assert_array_equal(certify(model, images([[0.8, 0.8]]), jnp.array([1])), [0])


def test_more_rows_only_raise_the_voronoi_radius(digits):
    (rows, labels), (x, y) = digits
    model = classifiers.knn(None, rows, labels, k=1)
    sizes = [(1, 1), (8, 16), (8, 200), (200, 200)]
    radii = [np.asarray(certificates.voronoi(model, x, y, own=a, other=b)) for a, b in sizes]
    for fewer, more in itertools.pairwise(radii):
        assert (fewer <= more + 1e-6).all()
    assert (radii[-1] > radii[0] + 1e-3).any()
    assert (radii[0] >= certificates.margin(model, x, y) - 1e-6).all()


def test_a_class_without_a_majority_has_no_radius():
    """3 rows of class 0 are no 4 of 7, though `other` is more than there are of the rest."""
    x = jnp.linspace(0, 1, 10).reshape(-1, 1, 1, 1)
    model = classifiers.knn(None, x, (jnp.arange(10) > 2).astype(jnp.int32), k=7)
    found = certificates.voronoi(model, x[:3], jnp.zeros(3, jnp.int32), own=4, other=8)
    np.testing.assert_array_equal(found, np.zeros(3))
