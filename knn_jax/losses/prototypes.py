"""Losses of points among prototypes of the classes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from knn_jax.losses.pairs import TINY, products
from knn_jax.neighbors import Cosine, Metric, fast_distance


def to_prototype(
    points: Float[Array, "batch dim"], prototype: Float[Array, "batch dim"], metric: Metric
) -> Float[Array, " batch"]:
    """(1 - d(f, p_y))^2, each with the prototype of its class (Serban, Poll & Visser 2021, eq. 6).

    By any metric but the cosine this has points at distance 1 from their prototype, as the paper writes
    it. By the cosine d is the similarity itself, as in the work that it follows (Mettes et al. 2019):
    (1 - cos)^2.
    """
    apart = fast_distance(metric, points, prototype)
    return jnp.square(apart if isinstance(metric, Cosine) else 1 - apart)


def prototype_radius(
    points: Float[Array, "batch dim"],
    prototypes: Float[Array, "class count dim"],
    y: Int[Array, " batch"],
    *,
    own: int,
    other: int,
) -> Float[Array, " batch"]:
    """How far a point is at least from where a prototype of another class is the nearest.

    min over j of max over i of (|f - p_j|^2 - |f - p_i|^2) / (2 |p_i - p_j|), i among the `own` nearest
    prototypes of class y and j among the `other` nearest of the others (Voracek & Hein 2022): the
    Voronoi certificate, below zero for a point on the wrong side. Of all prototypes it is sound.
    """
    classes, count, dim = prototypes.shape
    rows = prototypes.reshape(-1, dim)
    same = jnp.repeat(jnp.arange(classes), count)[None] == y[:, None]
    # The pair is chosen without a gradient, which then goes to these two prototypes alone.
    fixed = jax.lax.stop_gradient((points - rows[:1], rows - rows[:1]))
    squared = jnp.sum(jnp.square(fixed[1]), 1)[None] - 2 * products(*fixed)

    def nearest(among, number):
        found, index = jax.lax.top_k(jnp.where(among, -squared, -jnp.inf), number)
        return -found, index

    near, i = nearest(same, min(own, count))
    far, j = nearest(~same, min(other, (classes - 1) * count))
    p, q = fixed[1][i], fixed[1][j]
    norms = [jnp.sum(jnp.square(some), -1) for some in (p, q)]
    between = norms[0][:, :, None] + norms[1][:, None] - 2 * jnp.einsum("bid,bjd->bij", p, q)
    sides = (far[:, None] - near[:, :, None]) / jnp.sqrt(jnp.maximum(between, TINY))
    worst = sides.max(1).argmin(1)[:, None]
    best = jnp.take_along_axis(sides, worst[:, None], 2)[:, :, 0].argmax(1)[:, None]
    p, q = (rows[jnp.take_along_axis(*pair, 1)[:, 0]] for pair in ((i, best), (j, worst)))
    side = jnp.sum(jnp.square(points - q), 1) - jnp.sum(jnp.square(points - p), 1)
    return side / (2 * jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(p - q), -1), TINY)))
