"""Paper 1's certifiable representation: an autoencoder with classes kept apart in its bottleneck."""

from typing import Any

import jax.numpy as jnp

from knn_jax import losses
from knn_jax.defenses.defense import Defense


def lipschitz(net: Any, weight: float, apart: float) -> Defense:
    """|net(x) - x|^2 + weight (own - min(rival, apart)), of squared distances between bottlenecks.

    To the nearest example of the same class in the batch and of another (paper 1, section 6.1). The
    paper's formula has only the rival, with weight 1; its authors' code pulls by the own class too,
    and without that accuracy stays that of pixels.
    """

    def loss(variables, key, batch):
        del key
        found, taps = net.apply(variables, batch.x)
        error = jnp.sum(jnp.square(found - batch.clean.reshape(found.shape)), 1)
        own, rival = losses.nearest(taps["bottleneck"], batch.y, batch.there)
        return error + weight * (own - jnp.minimum(rival, apart))

    return Defense(net.init, loss, None)
