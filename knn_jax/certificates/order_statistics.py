"""What all certificates by distances start from: order statistics of the rows for and against a class.

With s = k // 2 + 1 rows of class y among the k nearest, y has the majority whatever the other rows
vote. To take it away, at least k - s + 1 rows of other classes must each come nearer than all but s - 1
rows of class y (the order statistics of Wang et al. 2019, arXiv:1906.03972, for any k; for k = 1 both
are the first).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from knn_jax import neighbors
from knn_jax.classifiers import Certifiable

# Rounding error of features computed in full float32, relative to the largest norm among them.
# Accelerators compute in less unless jax.default_matmul_precision("highest") is set around the
# features.
FEATURE_ERROR = 2.0**-20
# The largest norm among features must lie between these: larger squares overflow here or in what is
# made of them; smaller squares underflow, by less than FEATURE_ERROR of a norm in this range.
LEAST, MOST = 2.0**-30, 2.0**50


class Sides(NamedTuple):
    """The nearest rows of class y (`own`) and of the other classes, with their distances.

    relative  error of a squared distance computed in float32, at most, relative to it
    absolute  error of a distance because its features are rounded, at most
    known     whether the squares of the features are numbers, and every row was found that there is;
              otherwise there is no radius
    """

    own: neighbors.Neighbors
    other: neighbors.Neighbors
    relative: float
    absolute: Float[Array, " batch"]
    known: Bool[Array, " batch"]


def majority(k: int) -> tuple[int, int]:
    """(s, k - s + 1): rows of class y that decide for it, rows of others that decide against it."""
    return k // 2 + 1, k - k // 2


def nearest_of_each_side(
    model: Certifiable, query: Float[Array, "batch dim"], y: Int[Array, " batch"], own: int, other: int
) -> Sides:
    """The `own` nearest rows of class y and the `other` nearest rows of other classes."""
    (bank,) = model.banks
    rows = bank.shape[0]
    near = neighbors.search(query, bank, min(own, rows), labels=model.labels, only=y)
    rival = neighbors.search(query, bank, min(other, rows), labels=model.labels, without=y)
    largest = jnp.sqrt(jnp.max(jnp.sum(jnp.square(bank), -1)))
    largest = jnp.maximum(largest, jnp.sqrt(jnp.sum(jnp.square(query), -1)))
    known = (largest >= LEAST) & (largest <= MOST)  # both are false of NaN
    of_y = jnp.sum(model.labels[None] == y[:, None], -1)
    known &= _complete(near, of_y) & _complete(rival, rows - of_y)
    return Sides(near, rival, neighbors.rounding(bank), FEATURE_ERROR * largest, known)


def _complete(near: neighbors.Neighbors, count: Int[Array, " batch"]) -> Bool[Array, " batch"]:
    """Whether all of the `count` rows that there are, or as many as were asked for, were found at
    finite distances."""
    found = jnp.sum((near.index >= 0) & jnp.isfinite(near.distance), -1)
    return found == jnp.minimum(count, near.index.shape[-1])


def bracketed(near: Sides, lower, upper, closed, lipschitz):
    """The bounds of a radius as they are returned: 0 and inf where nothing is known."""
    known = near.known & (lower >= 0)
    lower, upper = jnp.where(known, lower, 0.0), jnp.where(near.known, upper, jnp.inf)
    return lower / lipschitz, upper / lipschitz, closed & known
