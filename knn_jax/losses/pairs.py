"""Distances of all pairs of points by matmuls, whose slopes are finite where points meet."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from knn_jax.neighbors import Cosine, Euclidean, Metric, Subspaces

TINY = 1e-24  # squared lengths below are taken for zero
ROUNDED = 1e-6  # of squared norms: what a squared distance computed from them may be wrong


def subspace_distances(
    features: Float[Array, "batch dim"], others: Float[Array, "row dim"], count: int
) -> Float[Array, "batch row"]:
    """Sums of the distances in `count` equal parts of the dimensions, by matmuls: pairs that rounding
    cannot tell apart have distance 0, of gradient 0."""
    features, others = features - others[:1], others - others[:1]
    total = jnp.zeros((len(features), len(others)))
    pairs = zip(*(jnp.split(array, count, 1) for array in (features, others)), strict=True)
    for one, other in pairs:
        norms = jnp.sum(jnp.square(one), 1)[:, None] + jnp.sum(jnp.square(other), 1)[None]
        squared = norms - 2 * products(one, other)
        apart = squared > ROUNDED * norms
        total += jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)
    return total


def pairwise_distances(
    features: Float[Array, "batch dim"], others: Float[Array, "row dim"], metric: Metric
) -> Float[Array, "batch row"]:
    """The distances of all pairs, of which many are computed at once: by matmuls, as
    `subspace_distances`, where the metric is Euclidean, of subspaces or the cosine."""
    match metric:
        case Euclidean(squared):
            found = subspace_distances(features, others, 1)
            return jnp.square(found) if squared else found
        case Subspaces(count):
            return subspace_distances(features, others, count)
        case Cosine():
            return jnp.square(subspace_distances(unit(features), unit(others), 1)) / 2
        case _:
            return metric.distance(features[:, None], others[None])


def unit(features: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """The vectors divided by their length; zeros stay zeros."""
    return features * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(features), -1, keepdims=True), TINY))


def squared_distances(features):
    """Squared distances (batch, batch) of all pairs."""
    features = features - features[:1]  # what all share would cost precision
    norms = jnp.sum(jnp.square(features), 1)
    return jnp.maximum(norms[:, None] + norms[None] - 2 * products(features, features), 0.0)


def products(one, other):
    """Inner products of all pairs of rows."""
    return jnp.matmul(one, other.T, precision=jax.lax.Precision.HIGHEST)
