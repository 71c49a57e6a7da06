"""Points far apart, one for each class, for a network to map its images to (Serban et al. 2021)."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from knn_jax.losses import unit
from knn_jax.neighbors import Chebyshev, Cosine, Euclidean, Metric, Name, fast_distance, named

STEPS, RATE = 100, 0.01  # by which Serban et al. 2021 descend, section 4


def repulsive(
    key: Array,
    classes: int,
    dim: int,
    metric: Metric | Name = "l2",
    *,
    steps: int = STEPS,
    rate: float = RATE,
) -> Float[Array, "class dim"]:
    """`steps` of gradient descent on -sum of d(c_i, c_j) over i != j (Serban, Poll &
    Visser 2021, eq. 5, with r = 1).

    The radius epsilon of that equation shares no term with the centres and is left out. The paper
    names no start: here it is normal. L2 and Linf have no minimum, each step moves the centres further
    apart; cosine, which the paper does not name, has, and its centres have length 1.
    """

    metric = named(metric)

    def total(centres):
        return -jnp.sum(_pairs(centres, metric))

    def step(_, centres):
        return _placed(centres - rate * jax.grad(total)(centres), metric)

    start = _placed(jax.random.normal(key, (classes, dim)), metric)
    return lax.fori_loop(0, steps, step, start)


def simplex(classes: int, dim: int) -> Float[Array, "class dim"]:
    """Centres of length 1, all equally far apart: no others lie further apart in L2 and cosine.

    Raises ValueError for more than dim + 1 classes, which no simplex has.
    """
    if classes > dim + 1:
        raise ValueError(f"{classes} points in {dim} dimensions: at most {dim + 1} are as far apart")
    # Corners of the cube, seen from their centre, in a basis of the hyperplane that they lie in.
    corners = jnp.eye(classes) - 1 / classes
    basis = jnp.linalg.svd(corners, full_matrices=False)[2][: classes - 1]
    return jnp.pad(unit(corners @ basis.T), ((0, 0), (0, dim - classes + 1)))


def separation(centres: Float[Array, "class dim"], metric: Metric | Name = "l2") -> Float[Array, ""]:
    """The smallest distance between two centres, over the largest that as many in a ball can have.

    The ball is the smallest around their mean, of the same norm; for cosine it is the sphere. In L2 the
    most is that of the simplex, in Linf that of the corners of a cube. 1 is the best, and where there
    are more than dim + 1 of them, or 2^dim, no longer reached. Raises ValueError for other metrics.
    """
    classes, metric = len(centres), named(metric)
    least = jnp.min(jnp.where(jnp.eye(classes, dtype=bool), jnp.inf, _pairs(centres, metric)))
    if isinstance(metric, Cosine):
        return least / (classes / (classes - 1))
    around = centres - centres.mean(0, keepdims=True)
    if isinstance(metric, Chebyshev):
        return least / (2 * jnp.max(jnp.abs(around)))
    if metric != Euclidean():
        raise ValueError(f"metric={metric}: the most is known in l2, linf and cosine")
    radius = jnp.sqrt(jnp.max(jnp.sum(jnp.square(around), 1)))
    return least / (radius * (2 * classes / (classes - 1)) ** 0.5)


def _pairs(centres, metric):
    return fast_distance(metric, centres[:, None], centres[None])


def _placed(centres, metric):
    return unit(centres) if isinstance(metric, Cosine) else centres
