"""Losses, one value per example."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Num


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


def soft_nearest_neighbors(
    features: Float[Array, "batch dim"],
    y: Int[Array, " batch"],
    there: Bool[Array, " batch"],
    temperature: float,
) -> Float[Array, " batch"]:
    """-log of the share of its own class among an example's neighbours in the batch.

    A neighbour's weight is exp(-|f_i - f_j|^2 / temperature) (Frosst et al. 2019, eq. 1). 0 for an
    example that is alone of its class, or not `there`.
    """
    squared = _squared(features)
    others = there[None] & ~jnp.eye(len(y), dtype=bool)
    same = others & (y[:, None] == y[None])
    counted = there & same.any(1)

    def mass(among):
        # An example with nobody among the others is given all of them, to be left out afterwards.
        among = among | ~counted[:, None]
        return jax.nn.logsumexp(-squared / temperature, 1, where=among)

    return jnp.where(counted, mass(others) - mass(same), 0.0)


def nearest(
    features: Float[Array, "batch dim"], y: Int[Array, " batch"], there: Bool[Array, " batch"]
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Squared distances to the nearest example of the same class in the batch, and of another one.

    0 to the same class and inf to another where there is none.
    """
    squared = _squared(features)
    same = y[:, None] == y[None]
    other = there[None] & ~jnp.eye(len(y), dtype=bool)
    own = jnp.min(jnp.where(other & same, squared, jnp.inf), 1)
    rival = jnp.min(jnp.where(other & ~same, squared, jnp.inf), 1)
    return jnp.where(jnp.isinf(own), 0.0, own), rival


def _squared(features):
    """Squared distances (batch, batch) of all pairs."""
    norms = jnp.sum(jnp.square(features), 1)
    return jnp.maximum(norms[:, None] + norms[None] - 2 * features @ features.T, 0.0)
