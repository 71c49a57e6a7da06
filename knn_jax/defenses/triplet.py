"""Cross-entropy and a triplet loss: neighbours of one class are asked to be nearer than all others."""

import jax
import jax.numpy as jnp

from knn_jax import losses, values
from knn_jax.defenses.adversarial import Perturbable
from knn_jax.nets import Module
from knn_jax.training import Objective, by_output


@values.value
class Triplet(Perturbable):
    """Cross-entropy plus `weight` times the batch-hard triplet loss of the layer before the last.

    Of each image the farthest of its class in the batch is asked to be nearer, by `gap`, than the
    nearest of any other class. An image that the batch has no second one of its class for, or none of
    another, has no triplet.
    """

    weight: float = 1.0
    """Weight of the triplet loss beside cross-entropy."""
    gap: float = 1.0
    """Distance by which the nearest image of another class is asked to be farther."""

    cites = "Hermans, Beyer & Leibe 2017, In Defense of the Triplet Loss, arXiv:1703.07737"

    def __post_init__(self):
        super().__post_init__()
        values.at_least(0, weight=self.weight, gap=self.gap)

    def unperturbed(self, module: Module) -> Objective:
        """Both losses."""

        def loss(_, output, batch):
            logits, layers = output
            *_, features, _ = layers.values()
            distance = losses.subspace_distances(features, features, 1)
            alike = batch.y[:, None] == batch.y[None]
            others = batch.mask[None] & ~jnp.eye(len(batch.y), dtype=bool)
            farthest = jnp.max(distance, 1, where=alike & others, initial=0.0)
            nearest = jnp.min(distance, 1, where=~alike & others, initial=jnp.inf)
            both = (alike & others).any(1) & jnp.isfinite(nearest)
            nearest = jnp.where(both, nearest, 0.0)
            triplet = jnp.where(both, jax.nn.relu(farthest - nearest + self.gap), 0.0)
            return losses.cross_entropy(logits, batch.y) + self.weight * triplet

        return by_output(module, loss)
