"""A certifiable representation: an autoencoder with classes kept apart in its bottleneck."""

import jax.numpy as jnp

from knn_jax import losses, nets, values
from knn_jax.defenses.adversarial import Perturbable
from knn_jax.nets import Module
from knn_jax.training import Objective


@values.value
class LipschitzAutoencoder(Perturbable):
    """The squared error of the restored image, and the classes parted in a 1-Lipschitz bottleneck."""

    weight: float = 1.0
    """Weight of the loss that parts the classes beside the squared error of the restored image."""
    apart: float = 4.0
    """Squared distance from which on classes are not parted further."""

    classifies = False
    only = nets.LipschitzAutoencoder
    cites = "Sitawarin & Wagner 2019, arXiv:1906.09525, section 6.1"

    def unperturbed(self, module: Module) -> Objective:
        """|net(x) - x|^2 + weight (same - min(other, apart)), of squared distances between bottlenecks.

        To the nearest example of the same class in the batch and of another. The formula of Sitawarin &
        Wagner 2019 has only the other, with weight 1; their code pulls by the same class too, and
        without that accuracy stays that of pixels.
        """

        def loss(variables, key, batch):
            del key
            found, taps = module.apply(variables, batch.x)
            error = jnp.sum(jnp.square(found - batch.clean.reshape(found.shape)), 1)
            same, other = losses.nearest(taps["bottleneck"], batch.y, batch.mask)
            return error + self.weight * (same - jnp.minimum(other, self.apart))

        return Objective(module.init, loss, None)
