"""Paper 5's defense, prototypes fixed far apart, and prototypes trained for a certified radius."""

from typing import Any

import jax.numpy as jnp

from knn_jax import data, losses
from knn_jax.defenses.defense import Defense, by_output

OWN, OTHER = 8, 64  # nearest prototypes of the class and of the others that a step compares


def repulsive(net: Any) -> Defense:
    """The distance of an image's point from the prototype of its class (paper 5, eq. 6)."""

    def loss(variables, output, batch):
        own = net.rows(variables)[batch.y, 0]
        return losses.to_prototype(output[1]["points"], own, net.distance)

    return by_output(net, loss)


def prototypes(net: Any, radius: float) -> Defense:
    """By how much the certified radius of an image falls short of `radius`, the prototypes being
    trained: certified nearest prototypes (Voracek & Hein 2022), on any features.

    They begin as training images, the first of each class.
    """

    def loss(variables, output, batch):
        points, rows = output[1]["points"], net.rows(variables)
        certified = losses.prototype_radius(points, rows, batch.y, own=OWN, other=OTHER)
        return jnp.maximum(radius - certified, 0.0)

    def examples(split: data.Split):
        return data.first_of_each(split, net.count)

    return by_output(net, loss)._replace(examples=examples)
