"""Carlini and Wagner's attack on a network's logits."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array

from knn_jax import classifiers
from knn_jax.attacks import lagrangian, outcome
from knn_jax.attacks.outcome import Found, Images, Labels
from knn_jax.neighbors import in_tiles


def carlini_wagner(
    key: Array,
    logits: Callable[[Images], Any] | classifiers.Network,
    x: Images,
    y: Labels,
    *,
    constant: float = 10.0,
    learning_rate: float = 0.1,
    steps: int = 500,
    rounds: int = 10,
    confidence: float = 0.0,
) -> Found:
    """Searches the smallest L2 perturbation that changes the largest of a network's logits.

    Adam minimises |image - x|^2 + constant * max(0, z_y - max of z_c over c != y + confidence), z the
    logits (where it names several classes, over the last of them), in a tanh box (Carlini & Wagner
    2017, f6), from x anew in each of `rounds` rounds that search the constant. Every image on the way
    is a candidate, as in their code; no round ends early. The defaults are those of paper 1's rows
    without kNN (arXiv 1906.09525). The network is a function of images or `classifiers.network`; one
    with parameters is `jax.tree_util.Partial(function, parameters)`.

    `key` is not drawn from. Raises ValueError for images outside [0, 1], labels out of range and
    numbers that are too small.
    """
    del key
    given = isinstance(logits, classifiers.Network)
    model = logits if given else classifiers.network(logits, classifiers.check_images(x))
    x, y = outcome.check(model, x, y)
    outcome.positive(constant=constant, learning_rate=learning_rate, steps=steps, rounds=rounds)
    outcome.not_negative(confidence=confidence)
    numbers = map(jnp.float32, (constant, learning_rate, confidence))
    return _carlini_wagner(model, x, y, *numbers, steps=steps, rounds=rounds)


@functools.partial(jax.jit, static_argnames=("steps", "rounds"))
def _carlini_wagner(model, x, y, constant, learning_rate, confidence, *, steps, rounds):
    optimizer = optax.adam(learning_rate)

    def batch(x, y):
        def hinge(image):
            return jax.nn.relu(outcome.lead(model, model.logits(image), y) + confidence)

        def run(_, bracket):
            def step(_, carry):
                best, *carry = carry
                after = lagrangian.step(optimizer, hinge, x, bracket.constant, *carry)
                best = lagrangian.keep(best, x, after.image, after.penalty <= 0, after.steep)
                return best, after.z, after.state

            z = lagrangian.unsquash(x)
            return lax.fori_loop(0, steps, step, (lagrangian.nothing(x), z, optimizer.init(z)))[0]

        return lagrangian.search(x, run, constant=constant, rounds=rounds)

    best = in_tiles(batch, outcome.BATCH)(x, y)
    return lagrangian.judge(model, x, y, best, steps * rounds, 0)
