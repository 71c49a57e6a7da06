"""Losses of points among points: the soft votes of neighbours, and the forces between points."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from knn_jax.losses.pairs import squared_distances, unit
from knn_jax.losses.scores import cross_entropy, log_sum
from knn_jax.neighbors import Cosine, Metric, fast_distance


def similarity(
    features: Float[Array, "batch dim"],
    references: Float[Array, "*batch class count dim"],
    metric: Metric,
) -> Float[Array, "batch class count"]:
    """How near an example is to references of every class: the cosine, or of another metric -distance.

    The references are each example's own, (batch, class, count, dim), or the same for all.
    """
    if isinstance(metric, Cosine):
        shared = "bd,cnd->bcn" if references.ndim == 3 else "bd,bcnd->bcn"
        return jnp.einsum(shared, unit(features), unit(references))
    references = references.reshape(-1, *references.shape[-3:])
    return -fast_distance(metric, features[:, None, None], references)


def adversarial_soft_neighbors(
    similarity: Float[Array, "batch class count"],
    y: Int[Array, " batch"],
    there: Bool[Array, "#batch class count"],
    form: Literal["mean", "sum"],
) -> Float[Array, " batch"]:
    """The ASK loss, -log of the share of class y in the mass of all (Wang et al. 2021, eq. 2).

    A class has the mass exp(mean of similarity) in the `mean` form, which that paper attacks with, and
    sum of exp(similarity) in the `sum` form, which it trains with; similarities come divided by the
    temperature. References masked out by `there` do not count; a class without any has no mass.
    """
    if form == "mean":
        count = there.sum(-1)
        total = jnp.sum(jnp.where(there, similarity, 0.0), -1)
        scores = jnp.where(count > 0, total / jnp.maximum(count, 1).astype(total.dtype), -jnp.inf)
    else:
        scores = log_sum(similarity, there)
    return cross_entropy(scores, y)


def information(loss: Float[Array, " batch"], classes: int) -> Float[Array, " batch"]:
    """log(classes - 1) - loss: its mean bounds from below, in nats, what an example tells of its
    references of class y (Wang et al. 2021, proposition 1; approximately, as its proof does)."""
    return math.log(classes - 1) - loss


def soft_nearest_neighbors(
    features: Float[Array, "batch dim"],
    y: Int[Array, " batch"],
    there: Bool[Array, " batch"],
    temperature: float,
) -> Float[Array, " batch"]:
    """The soft nearest neighbour loss: -log of the share of same-class examples in the batch.

    A neighbour's weight is exp(-|f_i - f_j|^2 / temperature) (Frosst et al. 2019, eq. 1). 0 for an
    example that is alone of its class, or masked out by `there`.
    """
    squared = squared_distances(features)
    others = there[None] & ~jnp.eye(len(y), dtype=bool)
    same = y[:, None] == y[None]
    counted = there & (others & same).any(1)
    own, rival = (log_sum(-squared / temperature, others & among) for among in (same, ~same))
    return jnp.where(counted, jax.nn.softplus(jnp.where(counted, rival - own, 0.0)), 0.0)


def nearest(
    features: Float[Array, "batch dim"], y: Int[Array, " batch"], there: Bool[Array, " batch"]
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Squared distances to the nearest example of the same class in the batch, and of another one.

    0 to the same class and inf to another where there is none.
    """
    squared = squared_distances(features)
    same = y[:, None] == y[None]
    other = there[None] & ~jnp.eye(len(y), dtype=bool)
    own = jnp.min(jnp.where(other & same, squared, jnp.inf), 1)
    rival = jnp.min(jnp.where(other & ~same, squared, jnp.inf), 1)
    return jnp.where(jnp.isinf(own), 0.0, own), rival


def potential(
    distance: Float[Array, "*pair"],
    same: Bool[Array, "*pair"],
    classes: int,
    *,
    decay: float | Float[Array, ""],
    near: float | Float[Array, ""],
) -> Float[Array, "*pair"]:
    """I (e^(-lambda d) - e^(-lambda l_0)) of pairs at distance d (Qian, An & Su, section 2.1).

    I is 1 / classes between classes, which repel each other, and within one -1 from l_0 = `near` on and
    0 below; lambda is `decay`.
    """
    # Above and below l_0 by a form of its own: neither has a large exponent, or cancels.
    below, above = (
        jnp.where(distance < near, distance, near),
        jnp.where(distance < near, near, distance),
    )
    repelled = -jnp.exp(-decay * below) * _expm1(-decay * (near - below))
    over = jnp.where(
        distance < near, repelled, jnp.exp(-decay * near) * _expm1(-decay * (above - near))
    )
    return jnp.where(same, jnp.maximum(-over, 0.0), over / classes)


@jax.custom_jvp
def _expm1(x):
    """e^x - 1 whose slope is e^x: JAX's own, expm1(x) + 1, rounds to 0 below -17."""
    return jnp.expm1(x)


_expm1.defjvps(lambda tangent, _, x: tangent * jnp.exp(x))
