"""Adversarial examples of a network that learns classes, and the loss on them: AT and TRADES."""

import abc
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from knn_jax import losses, values
from knn_jax.nets import STATISTICS, Module
from knn_jax.training import Adversary, Batch, Objective
from knn_jax.training.objective import logits

NOISE = 1e-3  # deviation of the start of TRADES, whose loss has no slope at the image itself


class Forwarded(NamedTuple):
    """What a step of training forwards, and the loss of what comes out.

    inputs  (forward, key, Batch) -> a tuple of (images, mask of those that count); `forward` gives the
            logits and layers of images, with running statistics
    loss    (a tuple of (logits, layers), one for each of these; Batch) -> (batch,)
    """

    inputs: Callable[..., tuple]
    loss: Callable[..., Array]


class RobustLoss(abc.ABC):
    """A loss on adversarial examples that are made for it."""

    @abc.abstractmethod
    def forwarded(self, adversary: Adversary) -> Forwarded:
        """What a step forwards, and its loss."""


@values.value
class AdversarialCrossEntropy(RobustLoss):
    """Cross-entropy on images that raise it, from random starts (Madry et al. 2018)."""

    def forwarded(self, adversary: Adversary) -> Forwarded:
        """The perturbed images alone."""

        def inputs(forward, key, batch):
            start = batch.x + adversary.start(key, batch.x.shape)

            def total(z):
                return losses.cross_entropy(forward(z)[0], batch.y)

            return ((adversary.ascend(total, batch.clean, start), batch.mask),)

        def loss(outputs, batch):
            ((found, _),) = outputs
            return losses.cross_entropy(found, batch.y)

        return Forwarded(inputs, loss)


@values.value
class TradesLoss(RobustLoss):
    """Cross-entropy, and how far perturbed images move the shares of the classes."""

    beta: float = 6.0
    """Weight of the divergence of the classes' shares that perturbed images cause (1 / lambda in Zhang
    et al. 2019)."""

    def __post_init__(self):
        values.at_least(0, beta=self.beta)

    def forwarded(self, adversary: Adversary) -> Forwarded:
        """The clean images and those that raise KL(p(x) || p(x')), from x with a little normal noise
        (Zhang et al. 2019, eq. 5)."""

        def inputs(forward, key, batch):
            clean = forward(batch.x)[0]
            start = batch.x + NOISE * jax.random.normal(key, batch.x.shape)
            x = adversary.ascend(lambda z: divergence(clean, forward(z)[0]), batch.clean, start)
            return (batch.x, batch.mask), (x, batch.mask)

        def loss(outputs, batch):
            (clean, _), (perturbed, _) = outputs
            return losses.cross_entropy(clean, batch.y) + self.beta * divergence(clean, perturbed)

        return Forwarded(inputs, loss)


def divergence(clean, perturbed):
    """KL of the shares of the classes, of logits."""
    shares = jax.nn.log_softmax(clean)
    return jnp.sum(jnp.exp(shares) * (shares - jax.nn.log_softmax(perturbed)), 1)


def by_forwarded(module: Module, forwarded: Forwarded) -> Objective:
    """Training so. A step forwards all its images at once: one set of batch statistics."""

    def images(variables, key, batch: Batch):
        return forwarded.inputs(lambda x: module.apply(variables, x), key, batch)

    def total(pairs, output, batch):
        ends = [0, *itertools.accumulate(len(x) for x, _ in pairs)]
        parts = [slice(*span) for span in itertools.pairwise(ends)]
        outputs = tuple(jax.tree.map(lambda a, part=part: a[part], output) for part in parts)
        return forwarded.loss(outputs, batch)

    def loss(variables, key, batch):
        pairs = images(variables, key, batch)
        output = module.apply(variables, jnp.concatenate([x for x, _ in pairs]))
        return total(pairs, output, batch)

    def train_loss(variables, key, batch):
        attack, dropout = jax.random.split(key)
        pairs = images(variables, attack, batch)
        x, mask = (jnp.concatenate(parts) for parts in zip(*pairs, strict=True))
        keys = {"dropout": dropout}
        output, statistics = module.apply(variables, x, mask, mutable=[STATISTICS], rngs=keys)
        return total(pairs, output, batch), statistics

    return Objective(module.init, loss, logits(module), train_loss)


def check_linf(adversary: Adversary, who: str) -> None:
    """Raises ValueError for an adversary of another norm."""
    if adversary.norm != "linf":
        raise ValueError(f"norm={adversary.norm!r}: {who} perturbs images in Linf, so give 'linf'")
