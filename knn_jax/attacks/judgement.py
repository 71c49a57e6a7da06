"""What an attack returns, and the judgement that it does not pass on itself."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num

from knn_jax import balls, losses
from knn_jax.classifiers import Decides, Images, Labels, Scores, margin, right

Count = int | Int[Array, ""]


class Found(NamedTuple):
    """Adversarial images, one for each example; where none was found, the clean one.

    norm         of the perturbation, in units of the images; inf: none found, 0: wrong without one
    gradients    computed for each example
    forwards     features computed for each example beside those of the gradients
    no_gradient  every gradient that was taken for an example was exactly zero, or NaN: that it was not
                 fooled says nothing of its robustness. False where it was wrong without an attack, and
                 of `boundary`, which takes none.
    exhausted    the attack stops where it fools and ran out of its steps, sizes or rounds before. False
                 of attacks that take all their steps whatever they find: `pgd`, `ask`, `dknn`, `kfgsm`,
                 `adv_knn`, `minimum_norm` and `boundary`.
    """

    image: Images
    norm: Float[Array, " batch"]
    success: Bool[Array, " batch"]
    gradients: Int[Array, ""]
    forwards: Int[Array, ""]
    no_gradient: Bool[Array, " batch"] | bool = False
    exhausted: Bool[Array, " batch"] | bool = False


def judge(
    model: Decides,
    x: Images,
    y: Labels,
    image: Images,
    norm: balls.Norm,
    gradients: Count,
    forwards: Count,
    clean: Bool[Array, " batch"] | None = None,
    no_gradient: Bool[Array, " batch"] | bool = False,
    exhausted: Bool[Array, " batch"] | bool = False,
) -> Found:
    """Decides by what the model predicts, and measures the image as returned.

    `clean` tells where the model is right at x, if it has been asked already; the rest is of `Found`.
    """
    forwards += 1 + (clean is None)
    asked = jnp.stack([x, image] if clean is None else [image])
    answers = lax.map(
        lambda image: model.right(image, y), asked
    )  # the model stands once in the program
    right = answers[0] if clean is None else clean
    wrong, fooled = ~right, ~answers[-1]
    fooled &= jnp.isfinite(image).all(range(1, image.ndim))  # and is no image
    success = wrong | fooled
    image = jnp.where(balls.over(success & ~wrong, x.shape), image, x)
    length = balls.ball(norm, 0.0).norm(image - x)
    length = jnp.where(success, length, jnp.inf)
    counts = jnp.asarray(gradients), jnp.asarray(forwards)
    return Found(image, length, success, *counts, right & no_gradient, right & exhausted)


def steep(gradient: Images) -> Bool[Array, " batch"]:
    """Where there is a gradient to follow: it is not zero everywhere, and nowhere NaN."""
    return jnp.abs(gradient).max(range(1, gradient.ndim)) > 0


def standing(model: Scores, x: Images, y: Labels) -> tuple[Bool[Array, " batch"], Num[Array, " batch"]]:
    """Whether the model is right, and its margin, of one vote."""
    votes = model.votes(x)
    return right(votes, y, model.top), margin(votes, y, model.top)


def margin_loss(model: Scores, scores: Num[Array, "batch class"], y: Labels) -> Num[Array, " batch"]:
    """The margin of votes, hard or soft, by which the model would be right."""
    return losses.margin(scores, y, model.top)
