"""Cross-entropy and the soft nearest neighbour loss: paper 1's representation, paper 4's baseline."""

from typing import Any

from knn_jax import losses
from knn_jax.defenses.defense import Defense, by_output

TEMPERATURE = 100.0  # of squared distances, kept as paper 1's trained network has it


def soft_neighbors(
    net: Any, weight: float, layers: tuple[str, ...] = (), temperature: float = TEMPERATURE
) -> Defense:
    """Cross-entropy plus `weight` times the soft nearest neighbour loss of each of the `layers`.

    By default these are all but the last. The loss is summed over layers (Frosst et al. 2019). Above 0
    the weight parts the classes, as in paper 1, which has 1; below 0 it entangles them. The
    temperature, of squared distances, stays what it is.
    """

    def loss(_, output, batch):
        logits, taps = output
        chosen = [taps[layer] for layer in layers or list(taps)[:-1]]
        parted = [
            losses.soft_nearest_neighbors(tap, batch.y, batch.there, temperature) for tap in chosen
        ]
        return losses.cross_entropy(logits, batch.y) + weight * sum(parted)

    return by_output(net, loss)
