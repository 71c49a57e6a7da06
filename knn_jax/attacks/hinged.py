"""Towards a group of another class and away from one's own, as far as the vote needs it."""

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

SLACK = 1e-5  # of squared distance by which a guide is to be beyond the k-th neighbour


def hinged(
    key: Array,
    model: Any,
    x: Images,
    y: Labels,
    *,
    guides: int = 150,
    constant: float = 0.1,
    learning_rate: float = 0.1,
    noise: float = 0.01,
    steps: int = 1000,
    rounds: int = 10,
    refresh: int = 200,
    starts: int = 1,
) -> Found:
    """Brings rows of another class among the k nearest and drives rows of the own out, in L2.

    The later attack of paper 1's authors (Sitawarin & Wagner 2020, arXiv 2003.06559). RMSprop minimises
    |image - x|^2 + constant * sum of max(0, d^2 - r^2) over half of the guides, of the nearest other
    class, and of max(0, r^2 - d^2) over the other half, of class y; d is a guide's distance to the
    image in features, r that of the image's k-th neighbour, both summed over taps. Guides and r are
    those of the current image, taken anew every `refresh` steps, when the vote is asked too. Each of
    `rounds` rounds searches the constant, from the start anew with noise of that deviation in the
    tanh box; with each round that fools, the next is left fewer guides, at last (k + 1) / 2 of each
    half, the nearest.

    The first start is x itself; of more `starts`, the others are the nearest rows of other classes,
    by features (in the authors' code by pixels), and the best of all is returned.

    Raises ValueError for images outside [0, 1], labels out of range and numbers that are too small.
    """
    x, y = outcome.check(model, x, y)
    outcome.voting(model)
    counts = {"steps": steps, "rounds": rounds, "refresh": refresh, "starts": starts}
    outcome.positive(constant=constant, learning_rate=learning_rate, **counts)
    outcome.not_negative(noise=noise)
    if guides < 2 or guides % 2:
        raise ValueError(f"guides={guides}: give an even number from 2 on")
    half = min(guides // 2, len(model.labels))
    numbers = map(jnp.float32, (constant, learning_rate, noise))
    return _hinged(key, model, x, y, *numbers, half=half, **counts)


@functools.partial(jax.jit, static_argnames=("half", "steps", "rounds", "refresh", "starts"))
def _hinged(key, model, x, y, constant, learning_rate, noise, *, half, steps, rounds, refresh, starts):
    optimizer = optax.rmsprop(learning_rate, decay=0.99, eps_in_sqrt=False)  # as PyTorch has it
    least = min(half, (model.k + 1) // 2)

    def batch(place, x, y):
        keys = outcome.keys(key, place)

        def attack(best, start):
            first, number = start

            def noisy(key, round_):
                key = jax.random.fold_in(jax.random.fold_in(key, number), round_)
                return noise * jax.random.normal(key, x.shape[1:], x.dtype)

            def run(round_, bracket):
                fewer = (half - least) * bracket.fooled // max(1, rounds - 1)
                nearest = jnp.arange(half)[None] < (half - fewer)[:, None]

                def period(carry, begin):
                    best, z, state = carry
                    near = model.guides(lagrangian.squash(z), y, half)
                    counted = near.there & nearest[:, None]
                    sign = jnp.array([[[-1.0], [1.0]]])

                    def penalty(image):
                        total = jnp.zeros(len(x), x.dtype)
                        squared = model.squared_distances(image, near.features)
                        for d, r in zip(squared, near.reach, strict=True):
                            each = jax.nn.relu(sign * (d - jnp.square(r)[:, None, None]) + SLACK)
                            total += jnp.where(counted, each, 0).sum((1, 2))
                        return total

                    def step(_, carry):
                        *carry, steep = carry
                        after = lagrangian.step(optimizer, penalty, x, bracket.constant, *carry)
                        return after.z, after.state, steep | after.steep

                    end = jnp.minimum(begin + refresh, steps)
                    z, state, steep = lax.fori_loop(begin, end, step, (z, state, best.steep))
                    image = lagrangian.squash(z)
                    best = lagrangian.keep(best, x, image, ~model.right(image, y), steep)
                    return (best, z, state), None

                z = lagrangian.unsquash(first) + jax.vmap(noisy, (0, None))(keys, round_)
                carry = lagrangian.nothing(x), z, optimizer.init(z)
                return lax.scan(period, carry, jnp.arange(0, steps, refresh))[0][0]

            own = lagrangian.search(x, run, constant=constant, rounds=rounds, decades=True)
            return lagrangian.better(best, own), None

        images = x[None]
        if starts > 1:
            rivals = model.rivals(x, y, starts - 1)
            images = jnp.concatenate([images, jnp.moveaxis(rivals, 1, 0)])
        best, _ = lax.scan(attack, lagrangian.nothing(x), (images, jnp.arange(starts)))
        return best

    held = jax.eval_shape(lambda m, x, y: m.guides(x, y, half), model, x[:1], y[:1])
    best = in_tiles(batch, outcome.fitting(held))(jnp.arange(len(x)), x, y)
    periods = -(-steps // refresh)
    forwards = (2 * periods * rounds * starts) + (starts > 1)
    return lagrangian.judge(model, x, y, best, steps * rounds * starts, forwards)
