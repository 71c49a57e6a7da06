"""Adversarial examples of a network that learns classes, and the loss on them: AT and TRADES."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from knn_jax import balls, losses
from knn_jax.defenses.defense import STATISTICS, Batch, Defense

NOISE = 1e-3  # deviation of the start of TRADES, whose loss has no slope at the image itself


class Generator(NamedTuple):
    """What a step of training forwards, and the loss of what comes out.

    inputs  (forward, key, Batch) -> a tuple of (images, which of them count); `forward` gives the
            logits and taps of images, with running statistics
    loss    (a tuple of (logits, taps), one for each of these; Batch) -> (batch,)
    """

    inputs: Callable[..., tuple]
    loss: Callable[..., Any]


def pgd(eps: float, *, steps: int, step_size: float) -> Generator:
    """Cross-entropy on images that raise it, from uniform starts in Linf (Madry et al. 2018)."""
    ball = balls.linf(eps)

    def inputs(forward, key, batch):
        start = batch.x + ball.sample(key, batch.x.shape)

        def total(z):
            return losses.cross_entropy(forward(z)[0], batch.y)

        return ((ascend(total, batch.clean, start, ball, steps, step_size), batch.there),)

    def loss(outputs, batch):
        ((logits, _),) = outputs
        return losses.cross_entropy(logits, batch.y)

    return Generator(inputs, loss)


def trades(eps: float, *, steps: int, step_size: float, beta: float) -> Generator:
    """Cross-entropy, and beta times how far perturbed images move the classes' shares, in Linf.

    The images raise KL(p(x) || p(x')), from x with a little normal noise (Zhang et al. 2019, eq. 5).
    """
    ball = balls.linf(eps)

    def moved(logits, others):
        shares = jax.nn.log_softmax(logits)
        return jnp.sum(jnp.exp(shares) * (shares - jax.nn.log_softmax(others)), 1)

    def inputs(forward, key, batch):
        logits = forward(batch.x)[0]
        start = batch.x + NOISE * jax.random.normal(key, batch.x.shape)
        x = ascend(lambda z: moved(logits, forward(z)[0]), batch.clean, start, ball, steps, step_size)
        return (batch.x, batch.there), (x, batch.there)

    def loss(outputs, batch):
        (clean, _), (perturbed, _) = outputs
        return losses.cross_entropy(clean, batch.y) + beta * moved(clean, perturbed)

    return Generator(inputs, loss)


def ascend(loss: Callable, clean, start, ball: balls.Ball, steps: int, step_size: float | Array):
    """Images in [0, 1] and in the ball around the clean ones, after steps that raise their loss."""

    def step(_, x):
        gradient = jax.grad(lambda z: jnp.sum(loss(z)))(x)
        return balls.step(ball, clean, x, gradient, step_size)

    return lax.stop_gradient(lax.fori_loop(0, steps, step, start))


def trained(net: Any, generator: Generator) -> Defense:
    """Training by a generator. A step forwards all its images at once: one set of batch statistics."""

    def images(variables, key, batch: Batch):
        return generator.inputs(lambda x: net.apply(variables, x), key, batch)

    def total(pairs, output, batch):
        ends = [0, *itertools.accumulate(len(x) for x, _ in pairs)]
        parts = [slice(*span) for span in itertools.pairwise(ends)]
        outputs = tuple(jax.tree.map(lambda a, part=part: a[part], output) for part in parts)
        return generator.loss(outputs, batch)

    def loss(variables, key, batch):
        pairs = images(variables, key, batch)
        output = net.apply(variables, jnp.concatenate([x for x, _ in pairs]))
        return total(pairs, output, batch)

    def learn(variables, key, batch):
        attack, dropout = jax.random.split(key)
        pairs = images(variables, attack, batch)
        x, there = (jnp.concatenate(parts) for parts in zip(*pairs, strict=True))
        keys = {"dropout": dropout}
        output, statistics = net.apply(variables, x, there, mutable=[STATISTICS], rngs=keys)
        return total(pairs, output, batch), statistics

    return Defense(net.init, loss, lambda variables, x: net.apply(variables, x)[0], learn)
