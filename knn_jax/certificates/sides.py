"""What both certificates start from: the rows for and against a class, and the rounding to allow.

With s = k // 2 + 1 rows of class y among the k nearest, y has the majority whatever the other votes.
To take it away, at least k - s + 1 rows of other classes must each come nearer than all but s - 1
rows of class y (the order statistics of Wang et al. 2019, for any k; for k = 1 both are the first).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from knn_jax import classifiers, neighbors

# Of features computed in full float32, relative to the largest norm among them. Accelerators take less
# unless told, by jax.default_matmul_precision("highest") around the features.
FEATURE_ERROR = 2.0**-20


class Sides(NamedTuple):
    """Distances to the nearest rows of class y (`own`) and of the others, and their indices.

    relative  error of a squared distance computed in float32, at most, relative to it
    absolute  error of a distance because its features are rounded, at most
    """

    own: neighbors.Neighbors
    other: neighbors.Neighbors
    relative: float
    absolute: Float[Array, " batch"]


def majority(k: int) -> tuple[int, int]:
    """(s, k - s + 1): rows of class y that decide for it, rows of others that decide against it."""
    return k // 2 + 1, k - k // 2


def sides(model: Any, query: Float[Array, "batch dim"], y: Int[Array, " batch"], own, other) -> Sides:
    """The `own` nearest rows of class y and the `other` nearest rows of other classes."""
    (bank,) = model.banks
    rows = bank.shape[0]
    near = neighbors.search(query, bank, min(own, rows), labels=model.labels, only=y)
    rival = neighbors.search(query, bank, min(other, rows), labels=model.labels, without=y)
    largest = jnp.sqrt(jnp.max(jnp.sum(jnp.square(bank), -1)))
    largest = jnp.maximum(largest, jnp.sqrt(jnp.sum(jnp.square(query), -1)))
    return Sides(near, rival, neighbors.rounding(bank), FEATURE_ERROR * largest)


def check(model: Any, x: Any, y: Any, lipschitz: float):
    """The images and labels in their types; raises ValueError for what cannot be certified."""
    if len(model.banks) != 1:
        raise ValueError(f"certificates cover one tap and the classifier has {len(model.banks)}")
    if model.metric != neighbors.Euclidean() or model.unit:
        given = "cosine, whose unit vectors no constant covers" if model.unit else model.metric
        raise ValueError(f"certificates are of Euclidean distances and the classifier has {given}")
    if isinstance(model.banks[0], neighbors.Sharded):
        raise ValueError("the bank is over several devices: certificates are for that of knn itself")
    if not 0 < lipschitz < float("inf"):
        raise ValueError(f"lipschitz={lipschitz}: give the constant of the features, above 0")
    x = classifiers.check_images(x)
    return x, classifiers.check_labels(y, len(x), model.classes)
