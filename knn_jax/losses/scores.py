"""Losses of scores: logits or votes, one number for each class."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num


def cross_entropy(
    logits: Float[Array, "batch class"], y: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """-log softmax(logits)_y.

    It is computed of the other classes' leads over y, so that its slope keeps its precision where y is
    almost certain: softmax_y - 1 would round to 0 there.
    """
    others = ~jax.nn.one_hot(y, logits.shape[1], dtype=bool)
    lead = logits - jnp.take_along_axis(logits, y[:, None], 1)
    return jax.nn.softplus(log_sum(jnp.where(jnp.isneginf(logits), logits, lead), others))


def sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 / (1 + e^-x), with a slope also where it rounds to 1: JAX has sigmoid (1 - sigmoid)."""
    return jnp.exp(jax.nn.log_sigmoid(x))


def margin(
    scores: Num[Array, "batch class"], y: Int[Array, " batch"], top: int = 1
) -> Num[Array, " batch"]:
    """s_y - max of s_c over c != y, negative where another class leads (Carlini & Wagner 2017, f6).

    Above 1 `top` takes the so many-th largest of these: negative where as many classes lead.
    """
    own = jax.nn.one_hot(y, scores.shape[1], dtype=bool)
    lowest = jnp.finfo if jnp.issubdtype(scores.dtype, jnp.floating) else jnp.iinfo
    least = scores.dtype.type(lowest(scores.dtype).min / 2)  # half: the lead over it is a number
    rest = jnp.where(own, least, scores)
    rest = rest.max(1) if top == 1 else jax.lax.top_k(rest, top)[0][:, -1]
    return jnp.take_along_axis(scores, y[:, None], 1)[:, 0] - rest


def log_sum(x, among):
    """Log of the sum of e^x over the last axis; -inf, and of slope 0, where nothing is `among`."""
    some = among & ~jnp.isneginf(x)
    none = ~some.any(-1)
    total = jax.nn.logsumexp(jnp.where(some, x, 0.0), -1, where=some | none[..., None])
    return jnp.where(none, -jnp.inf, total)
