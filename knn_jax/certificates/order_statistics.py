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
from knn_jax.neighbors import top_k

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


def counts(model: Certifiable, own: int, other: int) -> tuple[int, int]:
    """How many rows of each side are asked of the search: at least twice a majority of k, and no more
    than there are."""
    least_own, least_other = majority(model.k)
    rows = len(model.banks[0])
    return min(rows, max(own, 2 * least_own)), min(rows, max(other, 2 * least_other))


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


def half_margin(near: Sides, own: int) -> Float[Array, " batch"]:
    """(d(x,w) - d(x,z)) / 2 for the last w of other classes and the `own`-th z of class y, rounded
    down."""
    slack = near.relative  # half of it for each root, here and at the perturbed image
    margin = near.other.distance[:, -1] * (1 - slack) - near.own.distance[:, own - 1] * (1 + slack)
    return margin / 2 - 4 * near.absolute


def least_crossed(
    model: Certifiable, near: Sides, bisector: Float[Array, "batch other own"], spread: float = 1.0
) -> Float[Array, " batch"]:
    """The least change that crosses as many of the bisectors between rows as take the vote from y.

    `bisector` has the distance to that of each pair of `near`, whatever where one of them is absent.
    Rows of other classes that are left out count with half their margin, in L2, whose norms are up to
    `spread` times those that the bisectors' distances are in.
    """
    least_own, least_other = majority(model.k)
    own, other = (jnp.isfinite(side.distance) for side in (near.own, near.other))
    bisector = jnp.where(own[:, None], bisector, -jnp.inf)
    bisector = jnp.where(other[:, :, None], bisector, jnp.inf)
    against = top_k(bisector, least_own)[0][..., -1]  # what each w must cross
    radius = -top_k(-against, least_other)[0][..., -1]
    none_left = (other.shape[1] == len(model.banks[0])) | ~other[:, -1]
    return jnp.minimum(radius, jnp.where(none_left, jnp.inf, half_margin(near, least_own) / spread))


def radii(near: Sides, radius, lipschitz):
    """The radii as they are returned: 0 where there is none, and where nothing is known."""
    return jnp.where(near.known & (radius > 0), radius, 0.0) / lipschitz


def bracketed(near: Sides, lower, upper, closed, lipschitz):
    """The bounds of a radius as they are returned: 0 and inf where nothing is known."""
    known = near.known & (lower >= 0)
    lower, upper = jnp.where(known, lower, 0.0), jnp.where(near.known, upper, jnp.inf)
    return lower / lipschitz, upper / lipschitz, closed & known
