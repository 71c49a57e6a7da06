"""What certificates and measures say of features that are no numbers, and of rows that tie."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from points import images
from sklearn.datasets import load_digits

from knn_jax import analysis, attacks, certificates, classifiers, neighbors
from knn_jax.certificates import ABSTAIN, sets, sides

pytestmark = pytest.mark.usefixtures("quick")
K = pytest.mark.parametrize("k", [1, 2, 3, 4, 5])


def shares(x):
    """Of the sum of the pixels: 0 / 0 for a black image."""
    flat = x.reshape(len(x), -1)
    return flat / flat.sum(1, keepdims=True)


def radii(model, x, y):
    """Of every certificate, with a constant of 1; `exact` is for odd k."""
    found = {
        "margin": certificates.margin(model, x, y, lipschitz=1.0),
        "voronoi": certificates.voronoi(model, x, y, lipschitz=1.0, own=2, other=4),
    }
    if model.k % 2:
        exact = certificates.exact(model, x, y, lipschitz=1.0)
        found |= {"exact": exact.lower, "upper": exact.upper, "closed": exact.closed}
    return {name: np.asarray(leaf) for name, leaf in found.items()}


def nothing_is_known(found):
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, np.full(len(leaf), np.inf if name == "upper" else 0.0))


@pytest.fixture(scope="module")
def digits(quick):
    bunch = load_digits()
    x = jnp.asarray(bunch.images[:60, ..., None] / 16, jnp.float32)
    return x, jnp.asarray(bunch.target[:60], jnp.int32)


@pytest.mark.parametrize("k", [1, 3, 4])
def test_features_that_are_no_numbers_have_no_radius_and_spoil_no_other(digits, k):
    """A black image between two others; whatever class is asked about."""
    rows, labels = digits
    model = classifiers.knn(shares, rows[:40], labels[:40], k=k)
    x = jnp.concatenate([rows[40:41], jnp.zeros_like(rows[:1]), rows[41:42]])
    for asked in (0, 3, 9):
        y = jnp.array([model.predict(x[:1])[0], asked, model.predict(x[2:])[0]])
        found = radii(model, x, y)
        nothing_is_known({name: leaf[1:2] for name, leaf in found.items()})
        alone = radii(model, jnp.stack([x[0], x[2], x[2]]), jnp.stack([y[0], y[2], y[2]]))
        for name in found:
            np.testing.assert_allclose(found[name][[0, 2]], alone[name][:2], rtol=1e-5)
    assert max(leaf[0] for name, leaf in found.items() if name != "upper") > 0


@pytest.mark.parametrize("scale", [1e20, 1e-25])
@pytest.mark.parametrize("k", [1, 3])
def test_features_whose_squares_are_no_numbers_have_no_radius(digits, scale, k):
    rows, labels = digits
    model = classifiers.knn(lambda x: jnp.float32(scale) * x.reshape(len(x), -1), rows, labels, k=k)
    for y in (labels[:6], (labels[:6] + 1) % 10):
        nothing_is_known(radii(model, rows[:6], y))


@pytest.mark.parametrize("scale", [1e20, 1e-25])
def test_whatever_the_search_can_measure_of_them(monkeypatch, digits, scale):
    """Here it goes by features of another size: what is allowed for their rounding is not known yet."""
    rows, labels = digits
    size = jnp.float32(1 / scale)

    def able(query, bank, k, **options):
        found = search(size * query, size * bank, k, **options)
        return neighbors.Neighbors(found.distance / size, found.index)

    search = neighbors.search
    model = classifiers.knn(lambda x: jnp.float32(scale) * x.reshape(len(x), -1), rows, labels, k=1)
    monkeypatch.setattr(neighbors, "search", able)
    jax.clear_caches()
    nothing_is_known(radii(model, rows[:6], labels[:6]))
    monkeypatch.undo()
    jax.clear_caches()


@pytest.mark.parametrize("largest", [sides.LEAST, sides.MOST], ids=["least", "most"])
@pytest.mark.parametrize("k", [1, 3])
def test_up_to_these_norms_radii_are_those_of_any_other_scale(digits, largest, k):
    """By a power of two nothing is rounded."""
    rows, labels = digits
    norms = np.linalg.norm(np.asarray(rows, np.float64).reshape(60, -1), axis=1)
    up = math.ceil if largest == sides.LEAST else math.floor
    scale = 2.0 ** up(math.log2(largest / norms.max()))
    plain, scaled = (
        classifiers.knn(
            lambda x, s=s: jnp.float32(s) * x.reshape(len(x), -1), rows[:40], labels[:40], k=k
        )
        for s in (1.0, scale)
    )
    x, y = rows[40:46], plain.predict(rows[40:46])
    expected, found = radii(plain, x, y), radii(scaled, x, y)
    assert (expected["voronoi"] > 0).any()
    for name in expected:
        unit = 1 if name == "closed" else scale
        np.testing.assert_allclose(found[name] / unit, expected[name], rtol=1e-6)


def test_a_row_that_is_not_found_is_not_one_that_there_is_not(monkeypatch, digits):
    """Whatever the search says: here nothing of what is asked among some labels."""
    rows, labels = digits

    def blind(query, bank, k, *, only=None, without=None, **options):
        found = search(query, bank, k, only=only, without=without, **options)
        if without is None:
            return found
        return neighbors.Neighbors(
            jnp.full_like(found.distance, jnp.inf), jnp.full_like(found.index, -1)
        )

    search = neighbors.search
    monkeypatch.setattr(neighbors, "search", blind)
    jax.clear_caches()
    nothing_is_known(radii(classifiers.knn(None, rows[:30], labels[:30], k=1), rows[:4], labels[:4]))
    monkeypatch.undo()
    jax.clear_caches()


def test_a_bank_with_a_row_that_is_no_number_proves_nothing(digits):
    """It is made in a caller's jit, where no value is seen."""
    rows, labels = digits

    def certified(banks):
        return radii_of(classifiers.KNN(whole.features, banks, *given, k=1, classes=10))

    def radii_of(model):
        exact = certificates.exact(model, rows[:4], labels[:4])
        voronoi = certificates.voronoi(model, rows[:4], labels[:4], lipschitz=1.0)
        margin = certificates.margin(model, rows[:4], labels[:4], lipschitz=1.0)
        return {"margin": margin, "voronoi": voronoi, "exact": exact.lower, "closed": exact.closed}

    whole = classifiers.knn(None, rows[:30], labels[:30], k=1)
    given = whole.images, whole.labels
    for value in (jnp.nan, jnp.inf):
        (bank,) = whole.banks
        nothing_is_known(jax.jit(certified)((bank.at[7, 3].set(value),)))


# Measures and noise.


def test_a_sample_that_is_decided_for_nobody_counts_for_no_class():
    """All of them at the first image; half at the second, and class 0 in the other half."""

    def logits(x):
        first = x.reshape(len(x), -1)[:, :1]
        none = (x.reshape(len(x), -1)[:, 1:2] > 0.5) | (first > 0.5)
        return jnp.where(none, jnp.nan, jnp.array([[1.0, 0.0]]))

    x = images([[0.95, 0.0], [0.5, 0.0]])
    model = classifiers.network(logits, x)
    found = certificates.smoothing(jax.random.key(0), model, x, sigma=0.05, samples=400)
    np.testing.assert_array_equal(found.predict, [ABSTAIN, ABSTAIN])
    np.testing.assert_array_equal(found.radius, [0, 0])


def test_measures_of_what_is_no_number_are_the_least_there_is(digits):
    rows, labels = digits
    model = classifiers.knn(shares, rows[:40], labels[:40], k=5)
    x = jnp.concatenate([jnp.zeros_like(rows[:1]), rows[40:41]])
    held_out = analysis.calibrate(model, rows[40:], labels[40:])
    found = analysis.credibility(model, held_out, x)
    assert found.prediction[0] == classifiers.NOBODY
    assert found.credibility[0] == found.p[0].max() == (held_out.nonconformity == 5).mean()
    dimension = analysis.lid(model.first(x), model.banks[0], k=20)
    assert dimension[0] == 0 < dimension[1]
    assert np.isnan(analysis.jacobian_norm(shares, x)[0])


def test_an_image_that_nobody_votes_on_is_wrong_before_the_walk(digits):
    rows, labels = digits
    model = classifiers.knn(shares, rows[:40], labels[:40], k=5)
    x = jnp.concatenate([jnp.zeros_like(rows[:1]), rows[40:41]])
    found = attacks.boundary(jax.random.key(0), model, x, model.predict(x).at[0].set(9), steps=3)
    assert found.success.all()
    assert found.norm[0] == 0 < found.norm[1]
    np.testing.assert_array_equal(found.image[0], x[0])


# Ties: rows on a small grid, many of them twice and under several labels.

ROWS = 14
STEPS = np.linspace(0, 1, 33, dtype=np.float32)  # whose squared distances to the rows are exact


def on_a_grid(k, classes, seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 3, size=(ROWS, 2)) / 2
    labels = rng.permutation(np.arange(ROWS) % classes)
    model = classifiers.knn(None, images(rows), jnp.asarray(labels, jnp.int32), k=k)
    return dataclasses.replace(model, classes=2 if classes == 2 else 4)


def nearest_other(model, x, y):
    """To each x the nearest point of a fine grid that is not given class y, in float64."""
    points = np.stack(np.meshgrid(STEPS, STEPS), -1).reshape(-1, 2)
    apart = np.linalg.norm(points[None].astype(np.float64) - x[:, None], axis=-1)
    other = np.asarray(model.predict(images(points)))[None] != y[:, None]
    return np.where(other, apart, np.inf).min(1)


def asked(model, classes):
    """Points of a grid, each with the class it is given and with another."""
    x = np.repeat(np.stack(np.meshgrid(STEPS[::16], STEPS[::16]), -1).reshape(-1, 2), 2, 0)
    given = np.asarray(model.predict(images(x)))
    return x, given, np.where(np.arange(len(x)) % 2, (given + 1) % classes, given).astype(np.int32)


@K
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_bounds_agree_with_the_vote_on_ties(k, classes):
    """Above 0 the vote is right, and no point that it decides otherwise is nearer."""
    certified = 0
    for seed in range(4):
        model = on_a_grid(k, classes, seed)
        x, given, y = asked(model, classes)
        nearest = nearest_other(model, x, y)
        for certify in (certificates.margin, certificates.voronoi):
            radius = np.asarray(certify(model, images(x), jnp.asarray(y)))
            assert (given == y)[radius > 0].all()
            assert (radius <= nearest).all()
            certified += (radius > 0).sum()
    assert certified > 0 or k % 2 == 0  # which may take all of the nearest rows


@pytest.mark.parametrize(("k", "classes"), [(1, 3), (3, 2), (3, 4)])
def test_the_exact_radius_agrees_with_the_vote_on_ties(monkeypatch, k, classes):
    """It is 0 where the vote is wrong, nowhere else is its upper end, and there the vote is wrong."""
    for name, value in (("OPEN", 64), ("RIVALS", 12), ("ENDS", 4), ("WORK", 4)):
        monkeypatch.setattr(sets, name, value)
    model = on_a_grid(k, classes, 1)
    x, given, y = (leaf[::3] for leaf in asked(model, classes))
    found = certificates.exact(model, images(x), jnp.asarray(y), box=True)
    lower, upper, closed, point = (np.asarray(leaf) for leaf in found)
    assert (lower <= nearest_other(model, x, y)).all()
    np.testing.assert_array_equal(upper == 0, given != y)
    point = np.where(np.isfinite(upper)[:, None], point, x)
    changed = ~np.asarray(model.right(images(point), jnp.asarray(y)))
    np.testing.assert_array_equal(changed, np.isfinite(upper))
    np.testing.assert_allclose(lower[closed], upper[closed], atol=1e-3)
