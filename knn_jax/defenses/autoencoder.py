"""Paper 1's unsupervised representations: the encoders of autoencoders."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from knn_jax.defenses.defense import Defense


def autoencoder(net: Any) -> Defense:
    """|net(x) - x|^2 summed over pixels; for a perturbed image the target is the clean one."""

    def loss(variables, key, batch):
        del key
        found, _ = net.apply(variables, batch.x)
        return jnp.sum(jnp.square(found - batch.clean.reshape(found.shape)), 1)

    return Defense(net.init, loss, None)


def vae(net: Any) -> Defense:
    """Evidence lower bound with Bernoulli pixels, in bits a pixel (Kingma & Welling 2014)."""

    def loss(variables, key, batch):
        noise = jax.random.normal(key, (len(batch.x), net.latent))
        logits, taps = net.apply(variables, batch.x, noise=noise)
        target = batch.clean.reshape(logits.shape)
        error = jnp.sum(optax.sigmoid_binary_cross_entropy(logits, target), 1)
        mean, logvar = taps["mean"], taps["logvar"]
        divergence = -jnp.sum(1 + logvar - jnp.square(mean) - jnp.exp(logvar), 1) / 2
        return (error + divergence) / (logits.shape[1] * math.log(2))

    return Defense(net.init, loss, None)
