"""What an attack returns, and the judgement that it does not pass on itself."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Num

from knn_jax import balls, classifiers, losses, neighbors
from knn_jax.classifiers import Images, Labels, margin, right

REFERENCES = 2**26  # floats of references that a batch of images may hold: 256 MB
BATCH = 128  # images attacked at once, where these allow
HALVINGS = 10  # of the way from an image to one of another class
SHARE = 67  # references of each class, in per cent of k: a class wins with fewer than k neighbours
Count = int | Int[Array, ""]
Number = float | Float[Array, ""]


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
    model: Any,
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
    right: Any = model.right(x, y) if clean is None else clean
    wrong, fooled = ~right, ~model.right(image, y)
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


def named(model: Any) -> int:
    """How many classes the model names, among which the right one must be."""
    return getattr(model, "top", 1)


def standing(model: Any, x: Images, y: Labels) -> tuple[Bool[Array, " batch"], Num[Array, " batch"]]:
    """Whether the model is right, and its margin, of one vote."""
    votes = model.votes(x)
    return right(votes, y, named(model)), margin(votes, y, named(model))


def lead(model: Any, scores: Num[Array, "batch class"], y: Labels) -> Num[Array, " batch"]:
    """The margin of votes, hard or soft, by which the model would be right."""
    return losses.margin(scores, y, named(model))


def check(model: Any, x: Any, y: Any) -> tuple[Images, Labels]:
    """The images and labels in their types; raises ValueError if they are none for this model.

    A model need not say its number of `classes`; labels are then refused only below 0.
    """
    x = classifiers.check_images(x)
    return x, classifiers.check_labels(y, len(x), getattr(model, "classes", jnp.iinfo(jnp.int32).max))


def taps(model: Any) -> int:
    """In how many taps rows vote; 0 where none do."""
    return len(getattr(model, "banks", ()))


def voting(model: Any, *, whole: bool = False) -> None:
    """Raises ValueError for a classifier without rows that vote, or a bank that must be `whole` and is
    spread over devices."""
    if not taps(model):
        name = type(model).__name__
        raise ValueError(f"{name} has no rows that vote, which this attack needs: give classifiers.knn")
    if whole and any(isinstance(bank, neighbors.Sharded) for bank in model.banks):
        raise ValueError(
            "the bank is over several devices and this attack goes over all of it: give knn's"
        )


def positive(**numbers: Any) -> None:
    """Raises ValueError unless all are numbers above zero; what a caller traces is not known yet."""
    _check(lambda number: number > 0, "above 0", numbers)


def not_negative(**numbers: Any) -> None:
    """Raises ValueError unless all are numbers from zero on; what a caller traces is not known yet."""
    _check(lambda number: number >= 0, "0 or more", numbers)


def in_box(**sizes: Any) -> None:
    """Raises ValueError for a change of pixels that none in [0, 1] can have."""
    not_negative(**sizes)
    for name, size in sizes.items():
        if not isinstance(size, Tracer) and np.asarray(size) > 1:
            remedy = f", of 255 levels {size:g}/255" if np.asarray(size) <= 255 else ""
            raise ValueError(f"{name}={size}: pixels are in [0, 1], so give at most 1{remedy}")


def _check(allowed, what, numbers):
    for name, number in numbers.items():
        if isinstance(number, Tracer):
            continue
        value = np.asarray(number)  # numpy's: in a caller's jit even constants would be traced
        if not (allowed(value) and np.isfinite(value)):
            raise ValueError(f"{name}={number}: it must be {what}")


def batch_size(model: Any, x: Images, references: int) -> int:
    """How many examples to attack at once: up to 128, as the references' memory allows."""
    return fitting(jax.eval_shape(lambda m, x: m.references(x, references), model, x[:1]))


def fitting(one: Any) -> int:
    """How many examples to attack at once if arrays of the shapes of `one` are held for each."""
    size = sum(leaf.size for leaf in jax.tree.leaves(one))
    return max(1, min(BATCH, REFERENCES // max(1, size)))


def halve(fooled: Callable[[Images], Any], x: Images, image: Images) -> Images:
    """The fooling end of the way from x to `image`, bisected at the boundary."""

    def half(_, ends):
        low, high = ends
        middle = (low + high) / 2
        wrong = fooled(x + balls.over(middle, x.shape) * (image - x))
        return jnp.where(wrong, low, middle), jnp.where(wrong, middle, high)

    ends = jnp.zeros(len(x), x.dtype), jnp.ones(len(x), x.dtype)
    high = lax.fori_loop(0, HALVINGS, half, ends)[1]
    return x + balls.over(high, x.shape) * (image - x)


def references(model: Any) -> int:
    """How many references of each class the surrogate votes with."""
    return -(-SHARE * model.k // 100)


def average(counts: Int[Array, " batch"]) -> Int[Array, ""]:
    """The mean over the examples, rounded up."""
    return -(-counts.sum() // len(counts))


def keys(key: Array, count: Int[Array, " batch"]) -> Array:
    """A key for each example by its place, the same in batches of any size."""
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(count)
