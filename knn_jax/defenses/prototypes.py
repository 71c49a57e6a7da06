"""Paper 5's defense, prototypes fixed far apart, and prototypes trained for a certified radius."""

import functools
from typing import Any

import jax.numpy as jnp

from knn_jax import data, losses
from knn_jax.defenses.basic import basic
from knn_jax.defenses.defense import STATISTICS, Defense

OWN, OTHER = 8, 64  # nearest prototypes of the class and of the others that a step compares


def repulsive(net: Any) -> Defense:
    """The distance of an image's point from the prototype of its class (paper 5, eq. 6)."""

    def total(variables, taps, y):
        own = net.rows(variables)[y, 0]
        return losses.to_prototype(taps["points"], own, net.distance)

    def loss(variables, key, batch):
        del key
        return total(variables, net.apply(variables, batch.x)[1], batch.y)

    def learn(variables, key, batch):
        apply = functools.partial(net.apply, mutable=[STATISTICS], rngs={"dropout": key})
        (_, taps), statistics = apply(variables, batch.x, batch.there)
        return total(variables, taps, batch.y), statistics

    return Defense(net.init, loss, basic(net).logits, learn)


def prototypes(net: Any, radius: float) -> Defense:
    """By how much the certified radius of an image falls short of `radius`, the prototypes being
    trained: certified nearest prototypes (Voracek & Hein 2022), on any features.

    They begin as training images, the first of each class.
    """

    def loss(variables, key, batch):
        del key
        points, rows = net.apply(variables, batch.x)[1]["points"], net.rows(variables)
        certified = losses.prototype_radius(points, rows, batch.y, own=OWN, other=OTHER)
        return jnp.maximum(radius - certified, 0.0)

    def examples(split: data.Split):
        return data.first_of_each(split, net.count)

    return Defense(net.init, loss, basic(net).logits, examples=examples)
