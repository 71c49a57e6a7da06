"""Paper 1's SNN representation: cross-entropy and the soft nearest neighbour loss on every layer."""

from typing import Any

from knn_jax import losses
from knn_jax.defenses.basic import basic
from knn_jax.defenses.defense import Defense

TEMPERATURE = 100.0  # of squared distances, kept as the authors' trained network has it


def soft_neighbors(net: Any, weight: float) -> Defense:
    """Cross-entropy plus `weight` times the soft nearest neighbour loss of each layer but the last.

    The loss is summed over layers (Frosst et al. 2019). Above 0 the weight parts the classes, as in
    paper 1, which has 1; below 0 it entangles them. The temperature stays what it is.
    """

    def loss(variables, key, batch):
        del key
        logits, taps = net.apply(variables, batch.x)
        layers = list(taps.values())[:-1]
        parted = [
            losses.soft_nearest_neighbors(tap, batch.y, batch.there, TEMPERATURE) for tap in layers
        ]
        return losses.cross_entropy(logits, batch.y) + weight * sum(parted)

    return Defense(net.init, loss, basic(net).logits)
