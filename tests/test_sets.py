"""The exact radius for k above 1 against every set of rows, bounds and attacks."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from points import classifier, images
from scipy.optimize import nnls
from victims import digits

from knn_jax import attacks, certificates
from knn_jax.certificates import sets

pytestmark = pytest.mark.usefixtures("quick")
ROWS, DIM, IMAGES = 12, 3, 10


def way(normals, leads):
    """The least norm of d with <normal, d> >= lead for all, by non-negative least squares; inf: none
    (Lawson & Hanson 1974, chapter 23)."""
    both = np.concatenate([normals.T, leads[None]])
    aim = np.zeros(len(both))
    aim[-1] = 1
    rest = both @ nnls(both, aim, maxiter=1000)[0] - aim
    return np.inf if abs(rest[-1]) < 1e-10 else np.linalg.norm(rest[:-1] / rest[-1])


def every_set(x, rows, labels, y, k, box):
    """The distance to where (k + 1) / 2 rows are as near as all but (k - 1) / 2 of class y: all pairs
    of sets one by one."""
    x, rows, best = np.asarray(x, np.float64), np.asarray(rows, np.float64), np.inf
    own, other = np.flatnonzero(labels == y), np.flatnonzero(labels != y)
    squared = np.sum((rows - x) ** 2, 1)
    for chosen in itertools.combinations(other, (k + 1) // 2):
        for left in itertools.combinations(own, (k - 1) // 2):
            pairs = [(w, z) for w in chosen for z in own if z not in left]
            w, z = np.array(pairs).T
            normals, leads = rows[w] - rows[z], (squared[w] - squared[z]) / 2
            if box:
                normals = np.concatenate([normals, np.eye(DIM), -np.eye(DIM)])
                leads = np.concatenate([leads, -x, x - 1])
            best = min(best, way(normals, leads))
    return best


def case(k, classes, seed=1):
    """A classifier of a few points, points it is asked about and the labels it gives them."""
    rng = np.random.default_rng(seed)
    rows = rng.uniform(size=(ROWS, DIM)).astype(np.float32)
    x = rng.uniform(size=(IMAGES, DIM)).astype(np.float32)
    model = classifier(rows, np.arange(ROWS) % classes, k=k)
    return model, x, np.asarray(model.predict(images(x)))


def truth(model, x, y, box=False):
    rows, labels = np.asarray(model.banks[0]), np.asarray(model.labels)
    return np.array([every_set(p, rows, labels, c, model.k, box) for p, c in zip(x, y, strict=True)])


def found_by(model, x, y, **options):
    found = certificates.exact(model, images(x), jnp.asarray(y), **options)
    return certificates.Exact(*map(np.asarray, found))


@pytest.mark.parametrize(
    ("k", "classes", "box"), [(3, 2, False), (3, 3, True), (5, 2, False)], ids=["3", "3-box", "5"]
)
def test_it_is_the_nearest_of_all_sets(k, classes, box):
    for seed in (1, 2):
        model, x, y = case(k, classes, seed)
        found, radius = found_by(model, x, y, box=box), truth(model, x, y, box)
        assert found.closed.all()
        assert (found.lower <= radius).all()
        assert (radius <= found.upper).all()
        np.testing.assert_allclose(found.lower, found.upper, rtol=2e-3, atol=1e-4)
        norms = np.linalg.norm(found.point.astype(np.float64) - x, axis=1)
        np.testing.assert_allclose(found.upper, norms, rtol=1e-5)
        inside = (found.point >= 0).all(1) & (found.point <= 1).all(1)
        assert inside.sum() > (IMAGES - 1 if box else IMAGES / 2)
        assert (model.margin(images(found.point[inside]), jnp.asarray(y)[inside]) <= 0).all()


def test_of_five_votes_in_three_classes_it_is_a_bound_and_the_vote_judges_the_point():
    """Three votes of two other classes need not beat two: the lower bound may not be reached."""
    opened = 0
    for seed in range(6):
        model, x, y = case(5, 3, seed)
        found, radius = found_by(model, x, y), truth(model, x, y)
        assert (found.lower <= radius + 1e-6).all()
        assert (found.lower <= found.upper).all()
        np.testing.assert_allclose(found.lower[found.closed], found.upper[found.closed], atol=2e-3)
        inside = (found.point >= 0).all(1) & (found.point <= 1).all(1) & np.isfinite(found.upper)
        assert (model.margin(images(found.point[inside]), jnp.asarray(y)[inside]) <= 0).all()
        opened += np.sum(~found.closed)
    assert 0 < opened < 30


@pytest.mark.parametrize(("name", "value"), [("WORK", 2), ("OPEN", 12), ("RIVALS", 4)])
def test_what_is_left_open_is_said_and_still_a_bound(monkeypatch, name, value):
    monkeypatch.setattr(sets, name, value)
    model, x, y = case(3, 2)
    model, x, y = model, x[: IMAGES - value % 5], y[: IMAGES - value % 5]  # to be compiled anew
    found, radius = found_by(model, x, y), truth(model, x, y)
    assert not found.closed.all()
    assert (found.lower <= radius).all()
    assert (radius <= found.upper).all()
    assert (found.lower[~found.closed] < found.upper[~found.closed]).all()


def test_bounds_below_it_and_attacks_above_it():
    model, x, y = digits()
    x, y = x[:12], y[:12].at[0].add(1)
    found = certificates.exact(model, x, y % 10, box=True)
    voronoi = certificates.voronoi(model, x, y % 10)
    attack = attacks.minimum_norm(jax.random.key(0), model, x, y % 10, steps=12, starts=2)
    assert found.closed.all()
    assert found.lower[0] == found.upper[0] == 0  # it is wrong beforehand
    assert (voronoi <= found.lower).all()
    assert (found.lower > 1.02 * voronoi).any()
    assert (found.lower <= found.upper).all()
    assert (found.lower <= attack.norm).all()
    assert np.median(attack.norm[1:] / found.upper[1:]) < 1.2
    assert (model.margin(found.point.reshape(x.shape), y % 10) <= 0).all()


def test_too_few_rows_of_other_classes_never_decide():
    model, x, _ = case(3, 2)
    alone = dataclasses.replace(model, labels=jnp.zeros(ROWS, jnp.int32).at[0].set(1))
    found = found_by(alone, x, np.zeros(IMAGES, np.int32))
    np.testing.assert_array_equal([found.lower, found.upper], np.full((2, IMAGES), np.inf))
    assert found.closed.all()
