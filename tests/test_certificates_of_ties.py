"""Certificates agree with the vote on ties: rows on a small grid, many twice under several labels."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from points import images

from knn_jax import certificates, classifiers
from knn_jax.certificates import exact_k

pytestmark = pytest.mark.usefixtures("quick")
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


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
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
        monkeypatch.setattr(exact_k, name, value)
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
