"""Least squared distance plus a constant times a penalty, the constant searched for each example."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from knn_jax import balls, losses
from knn_jax.attacks import outcome
from knn_jax.attacks.outcome import Count, Found, Images, Labels

EDGE = 0.999999  # how far towards black and white an image may lie: beyond, tanh has no slope left


class Best(NamedTuple):
    """The image that fools at the least distance so far (inf: none does)."""

    image: Images
    norm: Float[Array, " batch"]
    steep: Bool[Array, " batch"]  # whether any gradient of the penalty was more than zero


class Bracket(NamedTuple):
    """What is known of each example's constant after some rounds.

    constant     of the next round
    lower, upper the largest that failed (0: none) and the least that fooled (inf: none)
    fooled       how many rounds there had been when one last fooled (0: none has)
    """

    constant: Float[Array, " batch"]
    lower: Float[Array, " batch"]
    upper: Float[Array, " batch"]
    fooled: Int[Array, " batch"]


class Step(NamedTuple):
    """z and the optimiser's state after a step; the image before it, its penalty and whether that has a
    slope there."""

    z: Images
    state: optax.OptState
    image: Images
    penalty: Float[Array, " batch"]
    steep: Bool[Array, " batch"]


def squash(z: Images) -> Images:
    """Images in [0, 1] from numbers without bounds, (tanh z + 1) / 2 (Carlini & Wagner 2017, V.B).

    Written as a sigmoid: the slope of tanh rounds to 0 from |z| = 9 on, where pixels would stay.
    """
    return losses.sigmoid(2 * z)


def unsquash(image: Images) -> Images:
    """The numbers whose `squash` is the image, but for 5e-7 at black and white."""
    return jnp.arctanh(EDGE * (2 * image - 1))


def nothing(x: Images) -> Best:
    """None found yet."""
    return Best(x, jnp.full(len(x), jnp.inf, x.dtype), jnp.zeros(len(x), bool))


def keep(best: Best, x: Images, image: Images, fooled, steep) -> Best:
    """The better of `best` and, where it has fooled, `image`."""
    length = jnp.where(fooled, balls.l2(0.0).norm(image - x), jnp.inf)
    return better(best, Best(image, length, steep))


def better(one: Best, other: Best) -> Best:
    """The one at the lesser distance, for each example."""
    shorter = other.norm < one.norm
    image = jnp.where(balls.over(shorter, one.image.shape), other.image, one.image)
    return Best(image, jnp.minimum(one.norm, other.norm), one.steep | other.steep)


def step(
    optimizer: optax.GradientTransformation,
    penalty: Callable[[Images], Float[Array, " batch"]],
    x: Images,
    constant: Float[Array, " batch"],
    z: Images,
    state: optax.OptState,
) -> Step:
    """One step down |image - x|^2 + constant penalty(image), of each example by itself.

    The distance is to x as far as `squash` can reach it: it has no slope at a start there.
    """
    image, pull = jax.vjp(squash, z)

    def total(image):
        each = penalty(image)
        return each.sum(), each

    gradient, each = jax.grad(total, has_aux=True)(image)
    (slope,) = pull(2 * (image - squash(unsquash(x))) + balls.over(constant, x.shape) * gradient)
    with jax.numpy_dtype_promotion("standard"):  # optax.adam raises floats to integers
        updates, state = optimizer.update(slope, state)
    return Step(jax.tree.map(jnp.add, z, updates), state, image, each, outcome.steep(gradient))


def search(
    x: Images,
    run: Callable[[Int[Array, ""], Bracket], Best],
    *,
    constant: Float[Array, ""],
    rounds: int,
    decades: bool = False,
) -> Best:
    """The best image of `rounds` runs, `run(number, bracket)`, each with a better constant.

    A constant that fooled is an upper bound and one that did not a lower one; the next is ten times
    as large while none has fooled, then halfway between the bounds. `decades` divides it by ten for as
    long as none has failed.
    """

    def round_(carry, number):
        best, bracket = carry
        own = run(number, bracket)
        fooled = jnp.isfinite(own.norm)
        lower = jnp.where(fooled, bracket.lower, bracket.constant)
        upper = jnp.where(fooled, bracket.constant, bracket.upper)
        middle = jnp.where(lower > 0, (lower + upper) / 2, upper / (10 if decades else 2))
        following = jnp.where(jnp.isinf(upper), 10 * bracket.constant, middle)
        since = jnp.where(fooled, number + 1, bracket.fooled)
        return (better(best, own), Bracket(following, lower, upper, since)), None

    start = jnp.full(len(x), constant, x.dtype)
    unknown = Bracket(
        start, jnp.zeros_like(start), jnp.full_like(start, jnp.inf), jnp.zeros(len(x), jnp.int32)
    )
    return lax.scan(round_, (nothing(x), unknown), jnp.arange(rounds, dtype=jnp.int32))[0][0]


def judge(model: Any, x: Images, y: Labels, best: Best, gradients: Count, forwards: Count) -> Found:
    """What such a search found, in L2: it has run out of rounds where no constant fooled."""
    flags = {"no_gradient": ~best.steep, "exhausted": jnp.isinf(best.norm)}
    return outcome.judge(model, x, y, best.image, "l2", gradients, forwards, **flags)
