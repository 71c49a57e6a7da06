"""What neighbours vote for, as counts and differentiably."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


def votes(labels: Int[Array, "query k"], classes: int) -> Int[Array, "query class"]:
    """How many neighbours are of each class."""
    return jax.nn.one_hot(labels, classes, dtype=jnp.int32).sum(1)


def soft_votes(
    squared: Float[Array, "query class count"], k: int, temperature: float | Float[Array, ""]
) -> Float[Array, "query class"]:
    """Votes differentiable in the squared distances to each class's nearest rows.

    A row votes the sigmoid of its `nearness`. At temperature 0 the k nearest vote 1 and the rest 0, so
    these are the hard votes.
    """
    flat = nearness(squared.reshape(squared.shape[0], -1), k, temperature)
    return jax.nn.sigmoid(flat).reshape(squared.shape).sum(-1)


def nearness(
    squared: Float[Array, "query row"], k: int, temperature: float | Float[Array, ""]
) -> Float[Array, "query row"]:
    """(r - d^2) / (r temperature) of each row: above 0 for the k nearest.

    r is halfway between the k-th and the next squared distance and held constant.
    """
    ordered = lax.stop_gradient(jnp.sort(squared, -1))
    kth = ordered[:, k - 1]
    beyond = ordered[:, k] if ordered.shape[1] > k else 3 * kth
    r = ((kth + beyond) / 2)[:, None]
    return (r - squared) / jnp.maximum(r * temperature, jnp.finfo(squared.dtype).tiny)
