"""What training needs to know of a defense, as pure functions of the network's variables."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int, PyTree

from knn_jax import data
from knn_jax.nets import STATISTICS, Module


class References(NamedTuple):
    """Images besides those of a batch, or their features, with their labels: `count` of each class, or
    for each image."""

    x: Float[Array, "group count *one"]
    y: Int[Array, "group count"]


class Batch(NamedTuple):
    """Training examples: what the network sees, the images without perturbation, and labels.

    The last batch of an epoch is filled up with others that are not in the `mask`; their loss is
    ignored. `references` are the images that each step is given besides, if any; `step` is its number.
    """

    x: Float[Array, "batch height width channel"]
    clean: Float[Array, "batch height width channel"]
    y: Int[Array, " batch"]
    mask: Bool[Array, " batch"]
    references: References | None = None
    step: Int[Array, ""] | None = None


class Objective(NamedTuple):
    """What a network is trained for.

    init        (key, images) -> variables
    loss        (variables, key, Batch) -> (batch,), with running statistics where there are any
    logits      (variables, images) -> (batch, class), or None where no classes are learnt
    train_loss  (variables, key, Batch) -> ((batch,), statistics): the loss of a step of training, with
                the statistics of the batch, and the running ones after it as {STATISTICS: ...}, or {}.
                None: the loss above, for networks that have none.
    examples    a training split -> the images that training gives init; None: the first two
    """

    init: Callable[..., PyTree]
    loss: Callable[..., PyTree]
    logits: Callable[..., PyTree] | None
    train_loss: Callable[..., PyTree] | None = None
    examples: Callable[[data.Split], PyTree] | None = None


def by_output(module: Module, loss: Callable[..., PyTree]) -> Objective:
    """Training by a loss of the network's output: (variables, (output, layers), Batch) -> (batch,)."""

    def running(variables, key, batch):
        del key
        return loss(variables, module.apply(variables, batch.x), batch)

    def train_loss(variables, key, batch):
        apply = functools.partial(module.apply, mutable=[STATISTICS], rngs={"dropout": key})
        output, statistics = apply(variables, batch.x, batch.mask)
        return loss(variables, output, batch), statistics

    return Objective(module.init, running, logits(module), train_loss)


def logits(module: Module) -> Callable[..., Array]:
    """The network's output as a function of its variables and of images."""
    return lambda variables, x: module.apply(variables, x)[0]
