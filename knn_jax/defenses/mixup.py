"""Paper 1's mixup representations: classifiers of interpolated images or layers."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from knn_jax import losses
from knn_jax.defenses.basic import basic
from knn_jax.defenses.defense import Defense


def mixup(net: Any, stages: int) -> Defense:
    """Cross-entropy on l a + (1 - l) b for pairs of examples, l uniform in [0, 1], once a batch.

    They are mixed before one of the first `stages` layers, drawn for each batch: 1 is input mixup
    (Zhang et al. 2018); manifold mixup (Verma et al. 2019) draws from all, the logits included.
    """

    def loss(variables, key, batch):
        share, partner, layer = jax.random.split(key, 3)
        share = jax.random.uniform(share)
        partner = partners(partner, batch.there)
        layer = jax.random.randint(layer, (), 0, stages)

        def between(stage, x):
            return jnp.where(layer == stage, share * x + (1 - share) * x[partner], x)

        logits, _ = net.apply(variables, batch.x, between=between)
        of = [losses.cross_entropy(logits, y) for y in (batch.y, batch.y[partner])]
        return share * of[0] + (1 - share) * of[1]

    return Defense(net.init, loss, basic(net).logits)


def partners(key: Key[Array, ""], there: Bool[Array, " batch"]) -> Int[Array, " batch"]:
    """A permutation at random that keeps the examples that are there among themselves."""
    drawn = jax.random.permutation(key, len(there))
    first = jnp.argsort(~there[drawn], stable=True)
    return jnp.zeros_like(drawn).at[jnp.argsort(~there, stable=True)].set(drawn[first])
