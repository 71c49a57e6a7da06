"""Classifiers of points, and the distance to the nearest change of class by quadratic programs."""

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from scipy.optimize import Bounds, LinearConstraint, minimize

from knn_jax import classifiers


def scaled(scale, x):
    return scale * x.reshape(x.shape[0], -1)


def images(points):
    """Points (count, dim) as images of one row of pixels."""
    points = jnp.asarray(points, jnp.float32)
    return points.reshape(points.shape[0], 1, -1, 1)


def classifier(rows, labels, k=1, scale=1.0):
    features = None if scale == 1 else Partial(scaled, jnp.float32(scale))
    return classifiers.knn(features, images(rows), jnp.asarray(labels, jnp.int32), k=k)


def exact(x, rows, labels, y, box=False):
    """The distance from x to where a row of another class is nearest, in [0, 1] if `box`."""
    x, rows, labels = np.asarray(x, np.float64), np.asarray(rows, np.float64), np.asarray(labels)
    own, best = rows[labels == y], np.inf
    for w in rows[labels != y]:
        lead = (np.sum((own - x) ** 2, 1) - np.sum((w - x) ** 2)) / 2
        normals = w - own  # w is nearer to x + d than a row z where <w - z, d> + lead >= 0
        found = minimize(
            lambda d: d @ d,
            w - x,
            jac=lambda d: 2 * d,
            bounds=Bounds(-x, 1 - x) if box else None,
            constraints=LinearConstraint(normals, -lead, np.inf),
            method="SLSQP",
            options={"maxiter": 200, "ftol": 1e-14},
        )
        assert found.success
        best = min(best, np.sqrt(found.fun))
    return best
