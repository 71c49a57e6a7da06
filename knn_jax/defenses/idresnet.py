"""Points of one class attract each other, and points of different classes repel each other."""

import dataclasses
from typing import cast, get_args

import jax.numpy as jnp

from knn_jax import data, losses, nets, values
from knn_jax.defenses.adversarial import Perturbable
from knn_jax.defenses.defense import Defense
from knn_jax.defenses.noise import Noise, drawn
from knn_jax.nets import Module
from knn_jax.nets.idresnet import IdResNetModule
from knn_jax.training import Objective


@values.value
class IdResNet(Perturbable):
    """The exponential contrastive loss on images with noise on their normalised pixels."""

    noise: Noise | None = "binomial"
    """Noise on normalised pixels: `binomial` is 2X - 5 of X ~ B(5, 0.5), the others have its variance;
    None: no noise."""
    pull: float = 0.25
    """Weight of the squared distance of points from zero (K mu in Qian, An & Su, section 3)."""
    decay: float = 0.5
    """Decay of the force between points with their distance (lambda in Qian, An & Su)."""
    near: float = 7.0
    """Distance below which points of one class attract each other no more (l_0 in Qian, An & Su)."""

    classifies = False
    only = nets.IdResNet
    cites = "Qian, An & Su, K-NN with Identity Initialized ResNet, section 2.1"

    def __post_init__(self):
        super().__post_init__()
        values.one_of((*get_args(Noise), None), noise=self.noise)
        values.at_least(0, pull=self.pull, near=self.near)
        values.above(0, decay=self.decay)

    def plain(self) -> Defense:
        """The same on images as they are."""
        return dataclasses.replace(self, adversary=None, noise=None)

    def unperturbed(self, module: Module) -> Objective:
        """Of each example the mean potential to all of the batch, plus `pull` times the square of its
        distance from zero (divided by the size of the batch, which the paper's sum is not)."""
        idresnet = cast(IdResNetModule, module)
        subspaces, force = idresnet.subspaces, {"decay": self.decay, "near": self.near}

        def loss(variables, key, batch):
            noise = drawn(self.noise, key, batch.x.shape)
            points, _ = module.apply(variables, batch.x, noise=noise)
            distance = losses.subspace_distances(points, points, subspaces)
            same = batch.y[:, None] == batch.y[None]
            pairs = losses.potential(distance, same, idresnet.classes, **force)
            mean = jnp.mean(pairs, 1, where=batch.mask[None])
            zero = losses.subspace_distances(points, jnp.zeros_like(points[:1]), subspaces)[:, 0]
            return mean + self.pull * jnp.square(zero)

        return Objective(module.init, loss, None, examples=data.typical)
