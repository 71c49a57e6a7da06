"""Cross-entropy on images with noise on their normalised pixels."""

import dataclasses
from typing import get_args

from knn_jax import data, losses, nets, values
from knn_jax.data import Dataset
from knn_jax.defenses.adversarial import Perturbable
from knn_jax.defenses.defense import Defense
from knn_jax.defenses.noise import Noise, drawn
from knn_jax.nets import Module
from knn_jax.training import Objective, Optim
from knn_jax.training.objective import logits


@values.value
class Noisy(Perturbable):
    """Cross-entropy of an `IdResNet`, whose points are logits, on images with noise."""

    noise: Noise | None = "binomial"
    """Noise on normalised pixels: `binomial` is 2X - 5 of X ~ B(5, 0.5), the others have its variance;
    None: no noise."""

    one_image = True
    only = nets.IdResNet
    cites = "Qian, An & Su, K-NN with Identity Initialized ResNet, Table 2, rows A and B"

    def __post_init__(self):
        super().__post_init__()
        values.one_of((*get_args(Noise), None), noise=self.noise)

    def check(self, dataset: Dataset, optim: Optim) -> None:
        """Besides, an output for each class."""
        assert isinstance(self.net, nets.IdResNet)
        outputs = self.net.subspaces * self.net.dim
        if outputs != dataset.classes:
            raise ValueError(
                f"Noisy learns {dataset.classes} classes, and subspaces x dim is {outputs}: "
                f"give subspaces=1, dim={dataset.classes}"
            )
        super().check(dataset, optim)

    def plain(self) -> Defense:
        """The same on images as they are."""
        return dataclasses.replace(self, adversary=None, noise=None)

    def unperturbed(self, module: Module) -> Objective:
        """Cross-entropy of the points."""

        def loss(variables, key, batch):
            noise = drawn(self.noise, key, batch.x.shape)
            found, _ = module.apply(variables, batch.x, noise=noise)
            return losses.cross_entropy(found, batch.y)

        return Objective(module.init, loss, logits(module), examples=data.typical)
