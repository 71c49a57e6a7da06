"""Adversarial training of any representation, on perturbed images only (Madry et al. 2018)."""

import abc
import dataclasses
from dataclasses import KW_ONLY

import jax
import jax.numpy as jnp

from knn_jax import values
from knn_jax.defenses.defense import Defense
from knn_jax.nets import Module
from knn_jax.training import Adversary, Objective


@values.value
class Perturbable(Defense):
    """A defense whose images an adversary may perturb."""

    _: KW_ONLY
    adversary: Adversary | None = None
    """Adversary that perturbs the training images to raise their loss; None: they stay as they are."""

    @abc.abstractmethod
    def unperturbed(self, module: Module) -> Objective:
        """What the module is trained for, on the images that it is given."""

    def objective(self, module: Module) -> Objective:
        """The same on perturbed images, if there is an adversary."""
        found = self.unperturbed(module)
        return found if self.adversary is None else adversarial(found, self.adversary)

    def plain(self) -> Defense:
        """The same on images as they are."""
        return dataclasses.replace(self, adversary=None)


def adversarial(objective: Objective, adversary: Adversary) -> Objective:
    """The objective's loss on images that the adversary perturbs to raise that loss.

    The ascents use running statistics and leave them as they are (in the code of Sitawarin & Wagner
    2019 each moved them); those of the batch are taken once, of the perturbed images. An example that
    only fills the batch has no part in what is ascended, which for some losses depends on all of a
    batch.
    """

    def perturbed(variables, key, batch):
        start, noise = jax.random.split(key)
        delta = adversary.start(start, batch.clean.shape)

        def total(x):
            return jnp.where(batch.mask, objective.loss(variables, noise, batch._replace(x=x)), 0.0)

        return adversary.ascend(total, batch.clean, batch.clean + delta)

    def on_perturbed(function):
        def found(variables, key, batch):
            attack, inner = jax.random.split(key)
            return function(variables, inner, batch._replace(x=perturbed(variables, attack, batch)))

        return found

    train_loss = on_perturbed(objective.train_loss) if objective.train_loss else None
    return objective._replace(loss=on_perturbed(objective.loss), train_loss=train_loss)
