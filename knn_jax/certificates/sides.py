"""What all certificates start from: the rows for and against a class, and the rounding to allow.

With s = k // 2 + 1 rows of class y among the k nearest, y has the majority whatever the other votes.
To take it away, at least k - s + 1 rows of other classes must each come nearer than all but s - 1
rows of class y (the order statistics of Wang et al. 2019, for any k; for k = 1 both are the first).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from knn_jax import classifiers, neighbors

# Of features computed in full float32, relative to the largest norm among them. Accelerators take less
# unless told, by jax.default_matmul_precision("highest") around the features.
FEATURE_ERROR = 2.0**-20
# The largest norm among features must lie between: squares above overflow here or in what is made of
# them; squares below underflow, by less than FEATURE_ERROR of a norm in this range.
LEAST, MOST = 2.0**-30, 2.0**50
FLOAT = np.finfo(np.float32)


class Sides(NamedTuple):
    """Distances to the nearest rows of class y (`own`) and of the others, and their indices.

    relative  error of a squared distance computed in float32, at most, relative to it
    absolute  error of a distance because its features are rounded, at most
    vouched   whether all of it is known: features are numbers whose squares are, and a row that was not
              found is one that there is not. Else there is no radius.
    """

    own: neighbors.Neighbors
    other: neighbors.Neighbors
    relative: float
    absolute: Float[Array, " batch"]
    vouched: Bool[Array, " batch"]


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
    vouched = (largest >= LEAST) & (largest <= MOST)  # neither is so of NaN
    of_y = jnp.sum(model.labels[None] == y[:, None], -1)
    vouched &= _complete(near, of_y) & _complete(rival, rows - of_y)
    return Sides(near, rival, neighbors.rounding(bank), FEATURE_ERROR * largest, vouched)


def _complete(near: neighbors.Neighbors, there: Int[Array, " batch"]) -> Bool[Array, " batch"]:
    """Whether as many rows were found, each at a finite distance, as there are or were asked for."""
    found = jnp.sum((near.index >= 0) & jnp.isfinite(near.distance), -1)
    return found == jnp.minimum(there, near.index.shape[-1])


def check(model: Any, x: Any, y: Any):
    """The images and labels in their types; raises ValueError for what cannot be certified."""
    if len(model.banks) != 1:
        raise ValueError(f"certificates cover one tap and the classifier has {len(model.banks)}")
    if model.metric != neighbors.Euclidean() or model.unit:
        given = "cosine, whose unit vectors no constant covers" if model.unit else model.metric
        raise ValueError(f"certificates are of Euclidean distances and the classifier has {given}")
    if isinstance(model.banks[0], neighbors.Sharded):
        raise ValueError("the bank is over several devices: certificates are for that of knn itself")
    x = classifiers.check_images(x)
    return x, classifiers.check_labels(y, len(x), model.classes)


def constant(model: Any, lipschitz: float | None) -> Float[Array, ""]:
    """The constant of the features by which a radius in them is divided: as given, or 1 of a classifier
    on the inputs themselves. Raises ValueError where it is not known, or none."""
    if lipschitz is None:
        if not model.on_inputs:
            raise ValueError(
                "lipschitz=None: give the L2 Lipschitz constant of the features, without which a radius"
                " says nothing of images (of pixels, classifiers.knn(None, images, labels), it is 1)"
            )
        lipschitz = 1.0
    if not FLOAT.tiny <= lipschitz <= FLOAT.max:
        raise ValueError(f"lipschitz={lipschitz}: give the constant of the features, above 0")
    if model.on_inputs and lipschitz < 1:
        raise ValueError(f"lipschitz={lipschitz}: that of the inputs themselves is 1, so give no less")
    return jnp.float32(lipschitz)


def bracketed(near: Sides, lower, upper, closed, lipschitz):
    """A radius between these bounds as it is returned: where it cannot be vouched for, 0 and inf."""
    known = near.vouched & (lower >= 0)
    lower, upper = jnp.where(known, lower, 0.0), jnp.where(near.vouched, upper, jnp.inf)
    return lower / lipschitz, upper / lipschitz, closed & known
