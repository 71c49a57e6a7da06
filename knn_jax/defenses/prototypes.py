"""Prototypes that are trained for the certified radius of images around them."""

from typing import cast

import jax.numpy as jnp

from knn_jax import data, losses, nets, values
from knn_jax.defenses.adversarial import Perturbable
from knn_jax.nets import Module, PrototypesModule
from knn_jax.training import Objective, by_output

OWN, OTHER = 8, 64  # nearest prototypes of the class and of the others that a step compares


@values.value
class Prototypes(Perturbable):
    """By how much the certified radius of an image falls short, the prototypes being trained."""

    layer: str | None = None
    """Layer that the prototypes lie in; None: the output, which is for pixels."""
    count: int = 100
    """Prototypes of each class, which begin as the first training images of the class."""
    radius: float = 2.5
    """Certified radius, in L2 of the features, above which no more is asked."""

    cites = "Voracek & Hein 2022, Provably Adversarially Robust Nearest Prototype Classifiers"

    def __post_init__(self):
        super().__post_init__()
        values.at_least(1, count=self.count)
        values.above(0, radius=self.radius)
        if self.layer is None and not isinstance(self.net, nets.Pixels):
            raise ValueError("layer=None: name the layer that prototypes lie in")

    def check_net(self) -> None:
        """Raises ValueError for a network that it does not train."""
        known = isinstance(self.net, nets.Pixels | nets.LipschitzAutoencoder)
        if self.net.batch_norm or not (known or self.net.classifies):
            raise ValueError(
                f"Prototypes trains no {type(self.net).__name__}: give nets.Pixels, "
                "nets.LipschitzAutoencoder, or a network that classifies without batch normalisation"
            )

    def named_layers(self) -> tuple[str, ...]:
        """The one that they lie in."""
        return () if self.layer is None else (self.layer,)

    def module(self, classes: int) -> Module:
        """The network with prototypes of each class."""
        body = self.net.build(classes)
        return PrototypesModule(body, classes, count=self.count, layer=self.layer)

    def unperturbed(self, module: Module) -> Objective:
        """The loss of certified nearest prototypes, on any features."""
        prototypes = cast(PrototypesModule, module)

        def loss(variables, output, batch):
            points, rows = output[1]["points"], prototypes.rows(variables)
            certified = losses.prototype_radius(points, rows, batch.y, own=OWN, other=OTHER)
            return jnp.maximum(self.radius - certified, 0.0)

        def examples(split: data.Split):
            return data.first_of_each(split, self.count)

        return by_output(module, loss)._replace(examples=examples)
