"""Paper 1's Basic representation: a classifier trained by cross-entropy."""

import functools
from typing import Any

from knn_jax import losses
from knn_jax.defenses.defense import STATISTICS, Defense


def basic(net: Any) -> Defense:
    """Cross-entropy on the net's output (paper 1, section 4.1)."""

    def logits(variables, x):
        return net.apply(variables, x)[0]

    def loss(variables, key, batch):
        del key
        return losses.cross_entropy(logits(variables, batch.x), batch.y)

    def learn(variables, key, batch):
        apply = functools.partial(net.apply, mutable=[STATISTICS], rngs={"dropout": key})
        (found, _), statistics = apply(variables, batch.x, batch.there)
        return losses.cross_entropy(found, batch.y), statistics

    return Defense(net.init, loss, logits, learn)
