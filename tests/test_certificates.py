"""Certificates against exact distances, against attacks, and by searching for a counterexample."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from points import classifier, exact, images, scaled
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


def test_margin_below_voronoi_below_the_exact_distance_below_the_attack():
    """For 3 points in 10 at least, the Voronoi radius also comes within 1% of the exact distance."""
    rng, dim = np.random.default_rng(3), 3
    rows = rng.uniform(size=(12, dim)).astype(np.float32)
    labels = np.arange(12) % 3
    x = rng.uniform(size=(20, dim)).astype(np.float32)
    model = classifier(rows, labels)
    y = model.predict(images(x))
    margin, voronoi = (
        np.asarray(certify(model, images(x), y))
        for certify in (certificates.margin, certificates.voronoi)
    )
    truth = np.array([exact(p, rows, labels, c) for p, c in zip(x, np.asarray(y), strict=True)])
    assert (margin <= voronoi + 1e-6).all()
    assert (voronoi <= truth + 1e-7).all()
    assert np.mean(voronoi > 0.99 * truth - 1e-5) > 0.3
    found = attacks.minimum_norm(jax.random.key(0), model, images(x), y, steps=20)
    assert (found.norm >= truth - 1e-6).all()


@pytest.mark.parametrize("k", [1, 5])
def test_no_attack_on_the_digits_comes_below_a_certificate(digits, k):
    (rows, labels), (x, y) = digits
    model = classifiers.knn(None, rows, labels, k=k)
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
def test_radii_in_features_are_divided_by_their_lipschitz_constant(certify, digits):
    """1,000 x has the constant 1,000 and says about x what x says; a constant of 4 quarters it."""
    (rows, labels), (x, y) = digits
    plain, large = (
        classifiers.knn(Partial(scaled, jnp.float32(s)), rows, labels, k=1) for s in (1, 1000)
    )
    radius = np.asarray(certify(plain, x, y, lipschitz=1.0))
    np.testing.assert_allclose(certify(plain, x, y, lipschitz=4.0), radius / 4, rtol=1e-6)
    np.testing.assert_allclose(certify(large, x, y, lipschitz=1000.0), radius, atol=1e-4)


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
@pytest.mark.parametrize("k", [1, 3])
def test_a_wrong_class_has_no_radius(certify, digits, k):
    (rows, labels), (x, y) = digits
    model = classifiers.knn(None, rows, labels, k=k)
    wrong = (model.predict(x) + 1 + y % 9) % 10
    np.testing.assert_array_equal(certify(model, x, wrong), np.zeros(12))


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


@both
def test_it_works_inside_the_callers_jit_and_on_one_image(certify, digits):
    (rows, labels), (x, y) = digits
    model = classifiers.knn(None, rows, labels, k=1)
    whole = certify(model, x, y)
    np.testing.assert_allclose(jax.jit(certify)(model, x, y), whole, atol=1e-6)
    np.testing.assert_allclose(certify(model, x[3:4], y[3:4]), whole[3:4], atol=1e-6)


@both
def test_only_of_the_inputs_themselves_a_constant_is_known(certify):
    """Whatever features happen to be equal to them; through `jit` too, and no less than 1."""
    rows, x, y = images([[0.2, 0.2], [0.8, 0.8]]), images([[0.3, 0.4]]), jnp.array([0])
    inputs, features = (
        classifiers.knn(f, rows, jnp.array([0, 1]), k=1)
        for f in (None, Partial(scaled, jnp.float32(1)))
    )
    radius = certify(inputs, x, y)
    np.testing.assert_array_equal(certify(features, x, y, lipschitz=1.0), radius)
    np.testing.assert_allclose(jax.jit(certify)(inputs, x, y), radius, rtol=1e-6)
    with pytest.raises(ValueError, match="lipschitz=None: give the L2 Lipschitz constant"):
        certify(features, x, y)
    with pytest.raises(ValueError, match=r"lipschitz=0.5: that of the inputs themselves is 1"):
        certify(inputs, x, y, lipschitz=0.5)
    with pytest.raises(ValueError, match=r"lipschitz=1e-46"):  # 0 in float32
        certify(features, x, y, lipschitz=1e-46)


TWO_ROWS = classifier([[0.2, 0.2], [0.8, 0.8]], [0, 1])
TWO_TAPS = classifiers.knn([TWO_ROWS.first] * 2, TWO_ROWS.images, TWO_ROWS.labels, k=1)
UNIT = classifiers.knn(TWO_ROWS.first, TWO_ROWS.images, TWO_ROWS.labels, k=1, metric="cosine")


@both
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lipschitz": 0.0}, "lipschitz=0.0: give the constant of the features, above 0"),
        ({"lipschitz": -1.0}, "lipschitz=-1.0"),
        ({"lipschitz": float("inf")}, "lipschitz=inf"),
        ({"lipschitz": float("nan")}, "lipschitz=nan"),
        ({"model": TWO_TAPS}, "certificates cover one tap and the classifier has 2"),
        ({"model": UNIT}, "the classifier has cosine, whose unit vectors no constant covers"),
        ({"x": images([[1.5, 0.0]])}, "images reach from 0.0 to 1.5"),
        ({"y": jnp.array([2])}, "out of range of 2 classes"),
    ],
)
def test_what_cannot_be_certified_is_refused(certify, arguments, message):
    with pytest.raises(ValueError, match=message):
        certify(**{"model": TWO_ROWS, "x": images([[0.2, 0.4]]), "y": jnp.array([0])} | arguments)


@pytest.mark.parametrize("arguments", [{"own": 0}, {"other": 0}])
def test_voronoi_needs_a_row_of_each_side(arguments):
    with pytest.raises(ValueError, match=r"own=.*, other=.*: at least one row of each is needed"):
        certificates.voronoi(TWO_ROWS, images([[0.2, 0.4]]), jnp.array([0]), **arguments)


def test_a_class_without_a_majority_has_no_radius():
    """3 rows of class 0 are no 4 of 7, though `other` is more than there are of the rest."""
    x = jnp.linspace(0, 1, 10).reshape(-1, 1, 1, 1)
    model = classifiers.knn(None, x, (jnp.arange(10) > 2).astype(jnp.int32), k=7)
    found = certificates.voronoi(model, x[:3], jnp.zeros(3, jnp.int32), own=4, other=8)
    np.testing.assert_array_equal(found, np.zeros(3))
