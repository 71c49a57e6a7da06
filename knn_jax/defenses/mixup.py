"""Classifiers of interpolated images or layers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from knn_jax import losses, values
from knn_jax.defenses.adversarial import Perturbable
from knn_jax.nets import ConvNet, Module
from knn_jax.training import Objective
from knn_jax.training.objective import logits


@values.value
class InputMixup(Perturbable):
    """Cross-entropy on images that are mixed in pairs."""

    only = ConvNet
    cites = "Zhang et al. 2018, arXiv:1710.09412"

    def unperturbed(self, module: Module) -> Objective:
        """Mixed before the first layer."""
        return mixed(module, stages=1)


@values.value
class ManifoldMixup(Perturbable):
    """Cross-entropy on pairs that are mixed before a layer drawn for each batch, the loss included."""

    only = ConvNet
    cites = "Verma et al. 2019, arXiv:1806.05236"

    def unperturbed(self, module: Module) -> Objective:
        """Mixed before any of the convolutions, the linear layer and the loss."""
        assert isinstance(self.net, ConvNet)
        return mixed(module, stages=len(self.net.layers) + 2)


def mixed(module: Module, stages: int) -> Objective:
    """Cross-entropy on l a + (1 - l) b for pairs of examples, l uniform in [0, 1], once a batch.

    They are mixed before one of the first `stages` layers, drawn for each batch.
    """

    def loss(variables, key, batch):
        share, partner, layer = jax.random.split(key, 3)
        share = jax.random.uniform(share)
        partner = partners(partner, batch.mask)
        layer = jax.random.randint(layer, (), 0, stages)

        def between(stage, x):
            return jnp.where(layer == stage, share * x + (1 - share) * x[partner], x)

        found, _ = module.apply(variables, batch.x, between=between)
        of = [losses.cross_entropy(found, y) for y in (batch.y, batch.y[partner])]
        return share * of[0] + (1 - share) * of[1]

    return Objective(module.init, loss, logits(module))


def partners(key: Key[Array, ""], mask: Bool[Array, " batch"]) -> Int[Array, " batch"]:
    """A permutation at random that keeps the examples of the mask among themselves."""
    drawn = jax.random.permutation(key, len(mask))
    first = jnp.argsort(~mask[drawn], stable=True)
    return jnp.zeros_like(drawn).at[jnp.argsort(~mask, stable=True)].set(drawn[first])
