"""What certificates, measures and an attack say of features that are no numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from points import images
from sklearn.datasets import load_digits

from knn_jax import attacks, certificates, classifiers, measures, neighbors
from knn_jax.certificates import ABSTAIN, order_statistics

pytestmark = pytest.mark.usefixtures("quick")


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


@pytest.mark.parametrize(
    "largest", [order_statistics.LEAST, order_statistics.MOST], ids=["least", "most"]
)
@pytest.mark.parametrize("k", [1, 3])
def test_up_to_these_norms_radii_are_those_of_any_other_scale(digits, largest, k):
    """By a power of two nothing is rounded."""
    rows, labels = digits
    norms = np.linalg.norm(np.asarray(rows, np.float64).reshape(60, -1), axis=1)
    up = math.ceil if largest == order_statistics.LEAST else math.floor
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
    held_out = measures.calibrate(model, rows[40:], labels[40:])
    found = measures.credibility(model, held_out, x)
    assert found.prediction[0] == classifiers.NOBODY
    assert found.credibility[0] == found.p[0].max() == (held_out.nonconformity == 5).mean()
    dimension = measures.lid(model.first(x), model.banks[0], k=20)
    assert dimension[0] == 0 < dimension[1]
    assert np.isnan(measures.jacobian_norm(shares, x)[0])


def test_an_image_that_nobody_votes_on_is_wrong_before_the_walk(digits):
    rows, labels = digits
    model = classifiers.knn(shares, rows[:40], labels[:40], k=5)
    x = jnp.concatenate([jnp.zeros_like(rows[:1]), rows[40:41]])
    found = attacks.boundary(jax.random.key(0), model, x, model.predict(x).at[0].set(9), steps=3)
    assert found.success.all()
    assert found.norm[0] == 0 < found.norm[1]
    np.testing.assert_array_equal(found.image[0], x[0])
