"""What training needs to know of a representation."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int

from knn_jax import data

STATISTICS = "batch_stats"  # the variables that are not parameters, in flax's word


class Others(NamedTuple):
    """Images besides those of a batch, with their labels: `count` of each class, or for each image."""

    x: Float[Array, "group count height width channel"]
    y: Int[Array, "group count"]


class Batch(NamedTuple):
    """Training examples: what the network sees, the images without perturbation, and labels.

    The last batch of an epoch is filled up with others that are not `there`; their loss is ignored.
    `others` are the images that each step is given besides, if any; `step` is its number.
    """

    x: Float[Array, "batch height width channel"]
    clean: Float[Array, "batch height width channel"]
    y: Int[Array, " batch"]
    there: Bool[Array, " batch"]
    others: Others | None = None
    step: Int[Array, ""] | None = None


class Defense(NamedTuple):
    """A way to train a representation, as pure functions of its variables.

    init      (key, images) -> variables
    loss      (variables, key, Batch) -> (batch,), with running statistics where the net has any
    logits    (variables, images) -> (batch, class), or None where it learns no classes
    learn     (variables, key, Batch) -> ((batch,), statistics): the loss of a step of training, with
              the statistics of the batch, and the running ones after it as {STATISTICS: ...}, or {}.
              None: the loss above, for nets that have none.
    examples  a training split -> the images that training gives init; None: the first two
    """

    init: Callable[..., Any]
    loss: Callable[..., Any]
    logits: Callable[..., Any] | None
    learn: Callable[..., Any] | None = None
    examples: Callable[[data.Split], Any] | None = None


def by_output(net: Any, loss: Callable[..., Any]) -> Defense:
    """Training by a loss of the net's output: (variables, (logits, taps), Batch) -> (batch,)."""

    def running(variables, key, batch):
        del key
        return loss(variables, net.apply(variables, batch.x), batch)

    def learn(variables, key, batch):
        apply = functools.partial(net.apply, mutable=[STATISTICS], rngs={"dropout": key})
        output, statistics = apply(variables, batch.x, batch.there)
        return loss(variables, output, batch), statistics

    return Defense(net.init, running, lambda variables, x: net.apply(variables, x)[0], learn)
