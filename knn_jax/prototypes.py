"""Points far apart, one for each class, for a network to map its images to (Serban et al., paper 5)."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from knn_jax import losses
from knn_jax.losses import Distance, unit

STEPS, RATE = 100, 0.01  # that the paper descends by


def repulsive(
    key: Array,
    classes: int,
    dim: int,
    distance: Distance = "l2",
    *,
    steps: int = STEPS,
    rate: float = RATE,
) -> Float[Array, "class dim"]:
    """`steps` of gradient descent on -sum of d(c_i, c_j) over i != j (paper 5, eq. 5, with r = 1).

    The radius epsilon of that equation shares no term with the centres and is left out. The paper
    names no start: here it is normal. L2 and Linf have no minimum, each step moves the centres further
    apart; cosine, which the paper does not name, has, and its centres have length 1.
    """

    def total(centres):
        return -jnp.sum(_pairs(centres, distance))

    def step(_, centres):
        return _placed(centres - rate * jax.grad(total)(centres), distance)

    start = _placed(jax.random.normal(key, (classes, dim)), distance)
    return lax.fori_loop(0, steps, step, start)


def simplex(classes: int, dim: int) -> Float[Array, "class dim"]:
    """Centres of length 1, all equally far apart: no other are further in L2 and cosine.

    Raises ValueError for more than dim + 1 of them, which there are not.
    """
    if classes > dim + 1:
        raise ValueError(f"{classes} points in {dim} dimensions: at most {dim + 1} are as far apart")
    # Corners of the cube, seen from their centre, in a basis of the hyperplane that they lie in.
    corners = jnp.eye(classes) - 1 / classes
    basis = jnp.linalg.svd(corners, full_matrices=False)[2][: classes - 1]
    return jnp.pad(unit(corners @ basis.T), ((0, 0), (0, dim - classes + 1)))


def separation(centres: Float[Array, "class dim"], distance: Distance = "l2") -> Float[Array, ""]:
    """The least distance between two of them, over the most that so many in a ball can have.

    The ball is the smallest around their mean, of the same norm; for cosine it is the sphere. In L2 the
    most is that of the simplex, in Linf that of the corners of a cube. 1 is the best, and where there
    are more than dim + 1 of them, or 2^dim, no longer reached.
    """
    classes = len(centres)
    least = jnp.min(jnp.where(jnp.eye(classes, dtype=bool), jnp.inf, _pairs(centres, distance)))
    if distance == "cosine":
        return least / (classes / (classes - 1))
    around = centres - centres.mean(0, keepdims=True)
    if distance == "linf":
        return least / (2 * jnp.max(jnp.abs(around)))
    radius = jnp.sqrt(jnp.max(jnp.sum(jnp.square(around), 1)))
    return least / (radius * (2 * classes / (classes - 1)) ** 0.5)


def _pairs(centres, distance):
    return losses.distance(centres[:, None], centres[None], distance)


def _placed(centres, distance):
    return unit(centres) if distance == "cosine" else centres
