"""Least squared distance plus a constant times a penalty, the constant searched for each example.

Carlini & Wagner (2017, arXiv:1608.04644) search the smallest perturbation that fools so, in a box that
tanh maps onto. Their attack, Sitawarin & Wagner's and L-BFGS differ in the penalty and the optimiser.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from knn_jax import balls, losses
from knn_jax.attacks import judgement
from knn_jax.attacks.attack import Found, Images, Labels, Number
from knn_jax.attacks.judgement import Count
from knn_jax.classifiers import Decides

EDGE = 0.999999  # how far towards black and white an image may lie: beyond, tanh has no slope left


class Best(NamedTuple):
    """The image that fools at the least distance so far (inf: none does)."""

    image: Images
    norm: Float[Array, " batch"]
    steep: Bool[Array, " batch"]  # whether the penalty ever had a gradient


class Bracket(NamedTuple):
    """The bounds of each example's constant after some rounds.

    constant     of the next round
    lower, upper the largest that failed (0: none) and the least that fooled (inf: none)
    fooled       the number of the last round that fooled, counted from 1 (0: none has)
    """

    constant: Float[Array, " batch"]
    lower: Float[Array, " batch"]
    upper: Float[Array, " batch"]
    fooled: Int[Array, " batch"]


class Step(NamedTuple):
    """The state after a step, and what the image was before it.

    z, state  the unbounded image and the optimiser's state after the step
    image     before the step, with its penalty
    steep     whether the penalty has a gradient there
    """

    z: Images
    state: optax.OptState
    image: Images
    penalty: Float[Array, " batch"]
    steep: Bool[Array, " batch"]


def to_box(z: Images) -> Images:
    """Images in [0, 1] from unbounded numbers: (tanh z + 1) / 2 (Carlini & Wagner 2017, V.B).

    Written as a sigmoid: the slope of tanh rounds to 0 from |z| = 9 on, where pixels would stay.
    """
    return losses.sigmoid(2 * z)


def from_box(image: Images) -> Images:
    """The inverse of `to_box`, but for 5e-7 at black and white."""
    return jnp.arctanh(EDGE * (2 * image - 1))


def none_found(x: Images) -> Best:
    """The clean images, before anything has fooled."""
    return Best(x, jnp.full(len(x), jnp.inf, x.dtype), jnp.zeros(len(x), bool))


def keep(
    best: Best, x: Images, image: Images, fooled: Bool[Array, " batch"], steep: Bool[Array, " batch"]
) -> Best:
    """The better of `best` and, where it fools, `image`."""
    length = jnp.where(fooled, balls.l2(0.0).norm(image - x), jnp.inf)
    return better(best, Best(image, length, steep))


def better(one: Best, other: Best) -> Best:
    """For each example the image at the smaller distance."""
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
    """One step down |image - x|^2 + constant * penalty(image), of each example by itself.

    The distance is measured to the x that `to_box` can reach, so that it has no slope at the start.
    """
    image, pull = jax.vjp(to_box, z)

    def total(image):
        each = penalty(image)
        return each.sum(), each

    gradient, each = jax.grad(total, has_aux=True)(image)
    (slope,) = pull(2 * (image - to_box(from_box(x))) + balls.over(constant, x.shape) * gradient)
    with jax.numpy_dtype_promotion("standard"):  # optax.adam raises floats to integers
        updates, state = optimizer.update(slope, state)
    return Step(jax.tree.map(jnp.add, z, updates), state, image, each, judgement.steep(gradient))


def search(
    x: Images,
    run: Callable[[Int[Array, ""], Bracket], Best],
    *,
    constant: Number,
    rounds: int,
    decades: bool = False,
) -> Best:
    """The best image of `rounds` calls of `run(number, bracket)`, each with a better constant.

    A constant that fooled is an upper bound and one that did not a lower bound. The next constant is
    ten times as large while none has fooled, then halfway between the bounds; while none has failed it
    is half as large or, with `decades`, a tenth.
    """

    def round_(carry, number):
        best, bracket = carry
        found = run(number, bracket)
        fooled = jnp.isfinite(found.norm)
        lower = jnp.where(fooled, bracket.lower, bracket.constant)
        upper = jnp.where(fooled, bracket.constant, bracket.upper)
        middle = jnp.where(lower > 0, (lower + upper) / 2, upper / (10 if decades else 2))
        constant = jnp.where(jnp.isinf(upper), 10 * bracket.constant, middle)
        last = jnp.where(fooled, number + 1, bracket.fooled)
        return (better(best, found), Bracket(constant, lower, upper, last)), None

    start = jnp.full(len(x), constant, x.dtype)
    unknown = Bracket(
        start, jnp.zeros_like(start), jnp.full_like(start, jnp.inf), jnp.zeros(len(x), jnp.int32)
    )
    return lax.scan(round_, (none_found(x), unknown), jnp.arange(rounds, dtype=jnp.int32))[0][0]


def judge(model: Decides, x: Images, y: Labels, best: Best, gradients: Count, forwards: Count) -> Found:
    """Judges in L2 what such a search found; it is exhausted where no constant fooled."""
    flags = {"no_gradient": ~best.steep, "exhausted": jnp.isinf(best.norm)}
    return judgement.judge(model, x, y, best.image, "l2", gradients, forwards, **flags)
