"""Towards the representations of a group of another class."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array

from knn_jax.attacks import lagrangian, outcome
from knn_jax.attacks.outcome import Found, Images, Labels
from knn_jax.neighbors import in_tiles


def guided(
    key: Array,
    model: Any,
    x: Images,
    y: Labels,
    *,
    guides: int = 100,
    constant: float = 1e-3,
    learning_rate: float = 0.1,
    steps: int = 500,
    rounds: int = 10,
) -> Found:
    """Moves the features towards those of the nearest group of another class, in L2.

    The attack behind the figures of Sitawarin & Wagner 2019 (arXiv 1906.09525, appendix A), whose
    settings on MNIST are the defaults; on their robust networks they took constant=0.1 and
    steps=1000. Its authors withdrew those figures: it stops far from the boundary, `hinged` less far.

    Adam minimises |image - x|^2 + constant * sum over guides of |f(image) - f(guide)|^2 (the mean
    over taps) in a tanh box, from x anew in each of `rounds` rounds that search the constant. The
    guides are the rows nearest to the clean x, as far as there are any, of the other class whose rows
    are nearest; only their mean has a gradient. The vote is asked once a round, of its last image.
    Unlike the authors' code each example is on its own: no round ends early because the batch's loss
    stalls, and the last is a step of the search like the others.

    `key` is not drawn from. Raises ValueError for images outside [0, 1], labels out of range and
    numbers that are too small.
    """
    del key
    x, y = outcome.check(model, x, y)
    outcome.voting(model)
    outcome.positive(
        guides=guides, constant=constant, learning_rate=learning_rate, steps=steps, rounds=rounds
    )
    guides = min(guides, len(model.labels))
    numbers = jnp.float32(constant), jnp.float32(learning_rate)
    return _guided(model, x, y, *numbers, guides=guides, steps=steps, rounds=rounds)


@functools.partial(jax.jit, static_argnames=("guides", "steps", "rounds"))
def _guided(model, x, y, constant, learning_rate, *, guides, steps, rounds):
    optimizer = optax.adam(learning_rate)

    def batch(x, y):
        near = model.guides(x, y, guides)
        there = near.there[:, 1:, :, None]
        count = there.sum((1, 2, 3)).astype(x.dtype)

        def mean(features):
            total = jnp.where(there, features[:, 1:], 0).sum(2, keepdims=True)
            return total / count[:, None, None, None]

        means = tuple(map(mean, near.features))

        def penalty(image):
            squared = model.squared_distances(image, means)
            return count * sum(d[:, 0, 0] for d in squared) / len(squared)

        def run(_, bracket):
            def step(_, carry):
                *carry, steep = carry
                after = lagrangian.step(optimizer, penalty, x, bracket.constant, *carry)
                return after.z, after.state, steep | after.steep

            z, nothing = lagrangian.unsquash(x), lagrangian.nothing(x)
            z, _, steep = lax.fori_loop(0, steps, step, (z, optimizer.init(z), nothing.steep))
            image = lagrangian.squash(z)
            return lagrangian.keep(nothing, x, image, ~model.right(image, y), steep)

        return lagrangian.search(x, run, constant=constant, rounds=rounds)

    held = jax.eval_shape(lambda m, x, y: m.guides(x, y, guides), model, x[:1], y[:1])
    best = in_tiles(batch, outcome.fitting(held))(x, y)
    return lagrangian.judge(model, x, y, best, steps * rounds, rounds + 1)
