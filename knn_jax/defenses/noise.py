"""Noise on normalised pixels."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Noise = Literal["binomial", "uniform", "normal"]
FLIPS = 5  # of a coin, X of them heads: the noise is 2X - 5, of variance 5


def drawn(
    noise: Noise | None, key: Key[Array, ""], shape: tuple[int, ...]
) -> Float[Array, "..."] | float:
    """Numbers of mean 0 and variance 5, or 0.0 without noise."""
    deviation = FLIPS**0.5
    match noise:
        case "binomial":
            heads = jax.random.bits(key, shape, jnp.uint8) & (2**FLIPS - 1)
            return 2.0 * jax.lax.population_count(heads).astype(jnp.float32) - FLIPS
        case "uniform":
            return deviation * 3**0.5 * jax.random.uniform(key, shape, minval=-1.0)
        case "normal":
            return deviation * jax.random.normal(key, shape)
    return 0.0
