"""Paper 3's representation: points of one class attract and of different classes repel each other."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from knn_jax import data, losses
from knn_jax.defenses.basic import basic
from knn_jax.defenses.defense import Defense

Noise = Literal["none", "binomial", "uniform", "normal"]
FLIPS = 5  # of a coin, X of them heads: the noise is 2X - 5, of variance 5


def idresnet(
    net: Any,
    *,
    noise: Noise = "binomial",
    pull: float = 0.25,
    decay: float = 0.5,
    near: float = 7.0,
) -> Defense:
    """The exponential contrastive loss on images with `noise` on their normalised pixels.

    Of each example it is the mean potential to all of the batch, plus `pull` (K mu) times the square of
    its distance from zero (paper 3, section 2.1; divided by B, which that paper's sum is not).
    """

    def loss(variables, key, batch):
        points, _ = net.apply(variables, batch.x, noise=drawn(noise, key, batch.x.shape))
        distance = losses.subspace_distances(points, points, net.subspaces)
        same = batch.y[:, None] == batch.y[None]
        pairs = losses.potential(distance, same, net.classes, decay=decay, near=near)
        mean = jnp.mean(pairs, 1, where=batch.there[None])
        zero = losses.subspace_distances(points, jnp.zeros_like(points[:1]), net.subspaces)[:, 0]
        return mean + pull * jnp.square(zero)

    return Defense(net.init, loss, None, examples=data.typical)


def noisy(net: Any, noise: Noise = "binomial") -> Defense:
    """Cross-entropy on such images (rows A and B of paper 3's Table 2)."""

    def loss(variables, key, batch):
        logits, _ = net.apply(variables, batch.x, noise=drawn(noise, key, batch.x.shape))
        return losses.cross_entropy(logits, batch.y)

    return Defense(net.init, loss, basic(net).logits, examples=data.typical)


def drawn(noise: Noise, key: Any, shape: tuple[int, ...]) -> Any:
    """Numbers of mean 0 and variance 5, or 0.0."""
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
