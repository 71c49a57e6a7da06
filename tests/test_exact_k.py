"""The exact radius for k above 1 against every set of rows, bounds and attacks."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from points import classifier, images
from scipy.optimize import nnls

from knn_jax import attacks, certificates
from knn_jax.certificates import branch_and_bound, exact_k

pytestmark = pytest.mark.usefixtures("quick")
ROWS, DIM, IMAGES = 12, 3, 8


@pytest.fixture(autouse=True, scope="module")
def few():
    """No more branches are held than such small banks have, and all images are worked on at once."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("OPEN", 256), ("RIVALS", 16), ("ENDS", 4)):
            patch.setattr(exact_k, name, value)
        yield


def way(normals, leads):
    """The least norm of d with <normal, d> >= lead for all, by non-negative least squares; inf: none
    (Lawson & Hanson 1974, chapter 23)."""
    both = np.concatenate([normals.T, leads[None]])
    aim = np.zeros(len(both))
    aim[-1] = 1
    rest = both @ nnls(both, aim, maxiter=1000)[0] - aim
    return np.inf if abs(rest[-1]) < 1e-10 else np.linalg.norm(rest[:-1] / rest[-1])


def every_set(x, rows, labels, y, k, box):
    """The distance to where the k nearest rows do not vote for y: all sets of k rows one by one, each
    with the cell in which they are the k nearest."""
    x, rows, best = np.asarray(x, np.float64), np.asarray(rows, np.float64), np.inf
    squared = np.sum((rows - x) ** 2, 1)
    for chosen in itertools.combinations(range(len(rows)), k):
        if np.bincount(labels[list(chosen)]).argmax() == y:  # ties to the lower class
            continue
        outside = np.setdiff1d(np.arange(len(rows)), chosen)
        w, z = np.array(list(itertools.product(chosen, outside))).T
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
    return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize(
    ("k", "classes", "box"), [(3, 3, True), (5, 2, False)], ids=["3-box", "5-free"]
)
def test_it_is_the_nearest_of_all_sets(k, classes, box):
    model, x, y = case(k, classes)
    found, radius = found_by(model, x, y, box=box), truth(model, x, y, box)
    assert found.closed[y == classes - 1].all()  # every other class wins a tie with it
    assert found.closed.all() or classes > 2
    assert (found.lower <= radius).all()
    assert (radius <= found.upper).all()
    lower, upper = found.lower[found.closed], found.upper[found.closed]
    np.testing.assert_allclose(lower, upper, rtol=2e-3, atol=1e-4)
    norms = np.linalg.norm(found.point.astype(np.float64) - x, axis=1)
    np.testing.assert_allclose(found.upper, norms, rtol=1e-5)
    inside = (found.point >= 0).all(1) & (found.point <= 1).all(1)
    assert inside.sum() > (IMAGES - 1 if box else IMAGES / 2)
    point = np.where(inside[:, None], found.point, 0.5)
    assert not model.right(images(point), jnp.asarray(y))[inside].any()


def test_of_five_votes_in_four_classes_it_is_a_bound_and_the_vote_judges_the_point(monkeypatch):
    """One vote of each other class does not beat two: there the lower bound is not reached."""
    monkeypatch.setattr(exact_k, "WORK", 100)
    model, x, y = case(5, 4)
    found, radius = found_by(model, x, y), truth(model, x, y)
    assert (found.lower <= radius).all()
    assert (radius <= found.upper).all()
    assert not found.closed.all()
    inside = (found.point >= 0).all(1) & (found.point <= 1).all(1) & np.isfinite(found.upper)
    point = np.where(inside[:, None], found.point, 0.5)
    assert not model.right(images(point), jnp.asarray(y))[inside].any()


@pytest.mark.parametrize(("name", "value", "count"), [("WORK", 2, 5), ("RIVALS", 2, 6)])
def test_what_is_left_open_is_said_and_still_a_bound(monkeypatch, name, value, count):
    monkeypatch.setattr(exact_k, name, value)
    model, x, y = case(3, 2)
    x, y = x[:count], y[:count]  # to be compiled anew
    found, radius = found_by(model, x, y), truth(model, x, y)
    assert not found.closed.all()
    assert (found.lower <= radius).all()
    assert (radius <= found.upper).all()
    assert (found.lower[~found.closed] < found.upper[~found.closed]).all()


def test_bounds_below_it_and_attacks_above_it():
    model, points, y = case(3, 3)
    x, y = images(points), jnp.asarray(y).at[0].set((y[0] + 1) % 3)
    found, voronoi = certificates.exact(model, x, y, box=True), certificates.voronoi(model, x, y)
    attack = attacks.minimum_norm(jax.random.key(0), model, x, y, steps=20, starts=2)
    assert found.lower[0] == found.upper[0] == 0  # it is wrong beforehand
    assert (voronoi <= found.lower * (1 + 1e-5)).all()  # each rounded down in its own way
    assert (found.lower <= attack.norm).all()
    assert np.median(attack.norm[1:] / found.upper[1:]) < 1.2


def test_too_few_rows_of_other_classes_never_decide():
    model, x, _ = case(3, 3)
    alone = dataclasses.replace(model, labels=jnp.zeros(ROWS, jnp.int32).at[0].set(1))
    found = found_by(alone, x, np.zeros(IMAGES, np.int32), box=True)
    np.testing.assert_array_equal([found.lower, found.upper], np.full((2, IMAGES), np.inf))
    assert found.closed.all()


def test_what_there_is_no_room_for_is_neither_closed_nor_forgotten():
    """Three new branches, of which one is too far, for the one slot that is not needed."""
    single = jnp.zeros(1)
    tree = branch_and_bound.Tree(
        bound=jnp.array([[0.5, 3.0]]),
        chosen=jnp.zeros((1, 2, 2), jnp.int32),
        left=jnp.zeros((1, 2, 1), jnp.int32),
        **dict.fromkeys(("rival", "lower", "missed", "point", "pool", "turns"), single + 9),
        upper=single + 2,
    )
    new = jnp.array([[2.5, 1.0, 1.5]]), jnp.ones((1, 3, 2), jnp.int32), jnp.ones((1, 3, 1), jnp.int32)
    tree = branch_and_bound._insert(tree, new)
    np.testing.assert_array_equal(tree.bound, [[0.5, 1.0]])
    np.testing.assert_array_equal(tree.chosen, [[[0, 0], [1, 1]]])
    assert tree.lower == tree.missed == 1.5
