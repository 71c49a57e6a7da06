"""Accuracy of a network's own output on held-out images: clean, and under PGD for early stopping."""

from collections.abc import Callable

import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import PyTree

from knn_jax import balls, data, losses
from knn_jax.neighbors import in_tiles
from knn_jax.training.adversary import ascend

IMAGES, BATCH, STEPS = 1000, 100, 10  # of the PGD
STEP = 0.25  # of its radius, the length of a step


def accuracy(logits: Callable, variables: PyTree, split: data.Split) -> float:
    """On all images."""
    logits = jax.jit(logits)
    right = 0
    for first in range(0, len(split.labels), 500):
        x = split.floats(first, first + 500)
        right += int(np.sum(np.argmax(logits(variables, x), 1) == split.labels[first : first + 500]))
    return right / len(split.labels)


def robust_accuracy(logits: Callable, variables: PyTree, split: data.Split, eps: float) -> float:
    """On the first images under PGD in Linf within `eps`, which chooses the epoch that early stopping
    keeps (Rice et al. 2020). Its few steps overrate robustness: no figure to report."""
    x, y = split.floats(0, IMAGES), split.labels[:IMAGES]
    return float(np.mean(_resist(Partial(logits), variables, x, y, eps)))


@jax.jit
def _resist(logits, variables, x, y, eps):
    ball = balls.linf(eps)

    def resist(x, y):
        def lead(z):  # of another class
            return -losses.margin(logits(variables, z), y)

        start = x + ball.sample(jax.random.key(0), x.shape)
        return lead(ascend(lead, x, start, ball, STEPS, STEP * eps)) < 0

    return in_tiles(resist, BATCH)(x, y)
