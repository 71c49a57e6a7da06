"""Losses, one value per example."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Num


def cross_entropy(
    logits: Float[Array, "batch class"], y: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """-log softmax(logits)_y."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def margin(scores: Num[Array, "batch class"], y: Int[Array, " batch"]) -> Num[Array, " batch"]:
    """s_y - max of s_c over c != y: negative where another class leads (Carlini & Wagner 2017, f6)."""
    own = jax.nn.one_hot(y, scores.shape[1], dtype=bool)
    lowest = jnp.finfo if jnp.issubdtype(scores.dtype, jnp.floating) else jnp.iinfo
    rest = jnp.where(own, lowest(scores.dtype).min, scores).max(1)
    return jnp.take_along_axis(scores, y[:, None], 1)[:, 0] - rest
