"""The exact radius against a solver, closed forms, bounds and attacks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from points import classifier, images, scaled
from points import exact as by_solver
from sklearn.datasets import load_digits

from knn_jax import attacks, certificates, classifiers, neighbors
from knn_jax.certificates import nearest_cell, order_statistics

pytestmark = pytest.mark.usefixtures("quick")
boxes = pytest.mark.parametrize("box", [False, True], ids=["free", "box"])
ROWS, DIM, IMAGES, CLASSES = 40, 5, 20, 3  # of what is compiled for all points


def solve(rows, labels, x, y, scale=1.0, **options):
    """`exact` of few points, made up to one shape by equal ones and by pixels of 0."""
    count = len(x)
    rows, x = (np.pad(p, ((0, 0), (0, DIM - len(p[0])))) for p in (rows, x))
    rows, x = np.resize(rows, (ROWS, DIM)), np.resize(x, (IMAGES, DIM))
    labels, y = np.resize(labels, ROWS), np.resize(y, IMAGES)
    model = dataclasses.replace(classifier(rows, labels, scale=scale), classes=CLASSES)
    found = certificates.exact(model, images(x), jnp.asarray(y, jnp.int32), **options)
    return certificates.ExactRadius(*(np.asarray(leaf)[:count] for leaf in found))


def crosses(point, rows, labels, y):
    """Whether a row of another class is as near to each point as those of class y, in float64."""
    distance = np.linalg.norm(point.astype(np.float64)[:, None] - rows, axis=-1)
    own = labels[None] == np.asarray(y)[:, None]
    return np.where(own, np.inf, distance).min(1) <= np.where(own, distance, np.inf).min(1)


def brackets(found, truth, rtol=1e-3):
    """The bracket is sound, and as narrow as rounding leaves it."""
    assert found.closed.all()
    assert (found.lower <= truth).all()
    assert (truth <= found.upper).all()
    np.testing.assert_allclose(found.lower, found.upper, rtol=rtol, atol=1e-4)


@pytest.fixture(scope="module")
def digits(quick):
    """A model of 70 digits, and 40 other images and labels."""
    bunch = load_digits()
    x = jnp.asarray(bunch.images[:110, ..., None] / 16, jnp.float32)
    y = jnp.asarray(bunch.target[:110], jnp.int32)
    return classifiers.knn(None, x[:70], y[:70], k=1), x[70:], y[70:]


@pytest.fixture(scope="module")
def solved(digits):
    """Of the digits, without the box and within."""
    return [certificates.exact(*digits, box=box) for box in (False, True)]


@pytest.mark.parametrize(
    ("box", "point", "radius"), [(False, [-0.25, 0.25], 0.125**0.5), (True, [0.0, 0.5], 0.5)]
)
def test_three_points_worked_by_hand(box, point, radius):
    """Rows of class 0 at (.5, .5) and (1, 0), one of class 1 at (0, 1), and x at (0, 0)."""
    rows = [[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]
    found = solve(rows, [0, 0, 1], [[0.0, 0.0]], [0], box=box)
    brackets(found, radius)
    np.testing.assert_allclose(found.point[:, :2], [point], atol=1e-4)


@boxes
def test_it_is_what_a_solver_finds(box):
    rng = np.random.default_rng(0)
    rows = rng.uniform(size=(ROWS, DIM)).astype(np.float32)
    x = rng.uniform(size=(IMAGES, DIM)).astype(np.float32)
    rows[:4], x[::3] = rows[:4].round(), x[::3].round()  # at corners of the box
    labels = np.arange(ROWS) % 3
    y = np.asarray(classifier(rows, labels).predict(images(x)))
    found = solve(rows, labels, x, y, box=box)
    brackets(found, np.array([by_solver(p, rows, labels, c, box) for p, c in zip(x, y, strict=True)]))
    assert crosses(found.point, rows, labels, y).all()
    norms = np.linalg.norm(found.point.astype(np.float64) - x, axis=1)
    np.testing.assert_allclose(found.upper, norms, rtol=1e-5)
    assert (found.upper >= norms).all()
    if box:
        assert found.point.min() >= 0
        assert found.point.max() <= 1


def surrounded():
    """A cluster of class 0 about x, and a row of class 1 shut in by 19 more of class 0."""
    rng = np.random.default_rng(0)
    around = rng.normal(size=(19, DIM))
    around *= 0.22 / np.linalg.norm(around, axis=1, keepdims=True)
    rows = np.concatenate([0.3 + 0.01 * rng.normal(size=(20, DIM)), 0.7 + around, [[0.7] * DIM]])
    labels = np.array([0] * 39 + [1])
    return rows.astype(np.float32), labels, np.full((1, DIM), 0.3, np.float32)


def test_rows_that_are_in_the_way_far_from_the_image():
    rows, labels, x = surrounded()
    found = solve(rows, labels, x, [0])
    brackets(found, by_solver(x[0], rows, labels, 0))
    assert crosses(found.point, rows, labels, [0]).all()
    near = certificates.voronoi(classifier(rows, labels), images(x), jnp.array([0]), own=16)
    assert found.lower > 1.02 * near


def test_more_rows_in_the_way_than_are_found_at_once():
    """Nine beside the way, and one hardly nearer than w that leaves next to nothing of its cell."""
    rng = np.random.default_rng(0)
    at = np.concatenate([np.zeros((20, 2)), np.tile([[0.5, 0.3]], (9, 1)), [[0.95, 0.0], [1.0, 0.0]]])
    rows = (at + 0.001 * rng.uniform(size=at.shape)).astype(np.float32).clip(0, 1)
    labels = np.array([0] * 30 + [1])
    found = solve(rows, labels, [[0.0, 0.0]], [0])
    brackets(found, by_solver([0.0, 0.0], rows, labels, 0))
    assert found.lower > 0.97


def test_what_is_left_open_is_said_and_still_a_bound(monkeypatch):
    rows, labels, x = surrounded()
    monkeypatch.setattr(nearest_cell, "ROUNDS", 1)
    found = certificates.exact(classifier(rows, labels), images(x), jnp.array([0]))
    truth = by_solver(x[0], rows, labels, 0)
    assert not found.closed.any()
    assert 0.5 * truth < found.lower < 0.999 * truth
    assert truth < found.upper < np.inf


def test_planted_rows_are_found(digits):
    """At .2 from a row of class y that x is on, every other row being far away."""
    model, x, y = digits
    planted = x[:6] + jnp.where(x[:6] > 0.5, -0.025, 0.025)
    bank = jnp.concatenate([x[:6], planted, model.images[12:]])
    labels = jnp.concatenate([y[:6], (y[:6] + 1) % 10, model.labels[12:]])
    model = classifiers.knn(None, bank, labels, k=1)
    for box in (False, True):
        found = certificates.exact(model, x, y, box=box)
        brackets(certificates.ExactRadius(*(leaf[:6] for leaf in found)), np.full(6, 0.1), rtol=2e-3)


def test_bounds_below_it_and_attacks_above_it(digits, solved):
    model, x, y = digits
    free, box = solved
    assert free.closed.all()
    assert box.closed.all()
    margin, voronoi = certificates.margin(model, x, y), certificates.voronoi(model, x, y)
    assert (margin <= voronoi + 1e-6).all()
    assert (voronoi <= free.lower).all()
    assert (free.lower <= free.upper).all()
    assert (free.lower <= box.upper).all()
    assert (box.lower <= box.upper).all()
    assert (box.lower > 1.02 * free.upper).any()
    np.testing.assert_allclose(box.lower, box.upper, rtol=1e-3, atol=1e-4)
    found = attacks.minimum_norm(jax.random.key(0), model, x[:10], y[:10], steps=12, starts=2)
    assert (box.lower[:10] <= found.norm).all()
    assert np.median(found.norm / box.upper[:10]) < 1.1


def test_the_point_in_the_box_fools_the_classifier(digits, solved):
    model, x, y = digits
    image = solved[1].point.reshape(x.shape)
    assert not model.right(image, y).any()


def test_each_image_has_its_own_answer(digits, solved):
    """Whatever is beside it and in whichever order: there are more images than lanes."""
    model, x, y = digits
    found = certificates.exact(model, x[::-1], y[::-1])
    for one, other in zip(found, solved[0], strict=True):
        np.testing.assert_allclose(one[::-1], other, atol=1e-4)


def test_in_features_it_is_divided_by_their_lipschitz_constant(digits, solved):
    model, x, y = digits
    large = classifiers.knn(Partial(scaled, jnp.float32(1000)), model.images, model.labels, k=1)
    found = certificates.exact(large, x, y, lipschitz=1000.0)
    np.testing.assert_allclose(found.lower, solved[0].lower, atol=2e-4)
    np.testing.assert_allclose(found.upper, solved[0].upper, atol=2e-4)
    np.testing.assert_allclose(found.point, 1000 * solved[0].point, atol=5)


def test_without_a_constant_it_is_the_radius_in_the_space_of_the_features():
    rows, labels, x = np.array([[0.2, 0.5], [0.8, 0.5]]), [0, 1], np.array([[0.3, 0.5]])
    brackets(solve(rows, labels, x, [0], scale=10.0), 2.0)
    brackets(solve(rows, labels, x, [0], scale=10.0, lipschitz=10.0), 0.2)


def test_a_box_is_around_prototypes_too_that_lie_among_pixels():
    """Row of class 0 at (.5, .5), of class 1 at (0, 1), and of 0 at (1, 0), of images at corners."""
    x = np.array([[0.0, 0.0], [1.0, 1.0]], np.float32)
    samples = classifiers.knn(None, images(x), jnp.array([0, 1]), k=1)
    rows = jnp.array([[[0.5, 0.5], [1.0, 0.0]], [[0.0, 1.0], [0.1, 1.0]]])
    model = classifiers.prototypes(samples, rows)
    found = jax.jit(functools.partial(certificates.exact, box=True))(
        model, images(x[:1]), jnp.array([0], jnp.int32)
    )
    truth = by_solver(x[0], rows.reshape(4, 2), [0, 0, 1, 1], 0, True)
    brackets(jax.tree.map(np.asarray, found), truth)
    features = dataclasses.replace(model, on_inputs=False)
    with pytest.raises(ValueError, match=r"box=True is for a classifier on the inputs themselves"):
        certificates.exact(features, images(x[:1]), jnp.array([0], jnp.int32), box=True)


def test_rounding_never_certifies_more_than_the_exact_distance():
    """Two rows, so that the exact distance to the bisector follows in float64 from the pixels."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(IMAGES, 3)).astype(np.float32)
    for scale in (1.0, 1.0, 1.0, 1000.0, 1000.0, 1000.0):
        rows = rng.uniform(size=(2, 3)).astype(np.float32)
        y = np.asarray(classifier(rows, [0, 1]).predict(images(x)))
        own, other = (rows.astype(np.float64)[c] for c in (y, 1 - y))
        lead = np.sum((x - other) ** 2, 1) - np.sum((x - own) ** 2, 1)
        found = solve(rows, [0, 1], x, y, scale, lipschitz=scale)
        brackets(found, lead / (2 * np.linalg.norm(own - other, axis=1)))


def test_the_rounding_of_the_vote_is_taken_off():
    """On a row of class y, d from the other: both distances are d / 2 where the class changes."""
    found = solve([[0.2] * 3, [0.7] * 3], [0, 1], [[0.2] * 3], [0])
    d, largest = 0.5 * 3**0.5, 0.7 * 3**0.5
    vote = neighbors.rounding(jnp.zeros((1, DIM))) * d / 4
    assert found.lower < d / 2 - 4 * order_statistics.FEATURE_ERROR * largest - vote
    brackets(found, d / 2)


def test_what_is_wrong_beforehand_has_radius_zero(digits):
    model, x, y = digits
    wrong = (model.predict(x) + 1 + y % 9) % 10
    found = certificates.exact(model, x, wrong)
    for length in (found.lower, found.upper):
        np.testing.assert_array_equal(length, np.zeros(len(x)))
    np.testing.assert_array_equal(found.point, x.reshape(len(x), -1))
    assert found.closed.all()


def test_equal_rows_of_two_classes():
    """The row of the other class is as near as its twin beyond the bisector with the rest."""
    found = solve([[0.2, 0.5], [0.8, 0.5], [0.8, 0.5]], [0, 1, 0], [[0.3, 0.5]], [0])
    brackets(found, 0.2)


def test_one_class_alone_is_never_left():
    found = solve([[0.2, 0.5], [0.8, 0.5]], [0, 0], [[0.3, 0.5]], [0])
    np.testing.assert_array_equal([found.lower, found.upper], np.full((2, 1), np.inf))
    assert found.closed.all()


def test_a_row_behind_an_equal_one_of_class_y_changes_no_vote():
    """Of rows at .4 the first wins; the next of class 1 is at 1, and the vote changes at .7."""
    rows, x = np.array([[0.0], [0.4], [0.4], [1.0]], np.float32), np.array([[0.1]], np.float32)
    found = solve(rows, np.array([0, 0, 1, 1]), x, np.array([0]), box=True)
    brackets(found, 0.6)
    rows, x = np.array([[0.2], [0.2], [0.9]], np.float32), np.array([[0.2]], np.float32)
    brackets(solve(rows, np.array([0, 1, 1]), x, np.array([0])), 0.35)


def test_points_change_the_vote_where_classes_share_rows():
    """A quarter of the rows stands twice, under two labels; no attack comes below."""
    key = jax.random.split(jax.random.key(1), 3)
    rows = jax.random.uniform(key[0], (ROWS, 2, 1, 1)).at[-10:].set(0.0)
    rows = rows.at[-10:].set(rows[:10])
    labels = jax.random.randint(key[1], (ROWS,), 0, 2)
    labels = labels.at[-10:].set(1 - labels[:10])
    model = classifiers.knn(None, rows, labels, k=1)
    x = jax.random.uniform(key[2], (IMAGES, 2, 1, 1))
    y = model.predict(x)
    found = certificates.exact(model, x, y, box=True)
    assert found.closed.all()
    assert (model.predict(jnp.clip(found.point.reshape(x.shape), 0, 1)) != y).all()
    attacked = attacks.minimum_norm(jax.random.key(0), model, x, y)
    assert (found.lower <= attacked.norm).all()
