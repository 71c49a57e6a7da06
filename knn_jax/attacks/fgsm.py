"""Steps along the sign of the gradient, as long as the shortest that fools."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from knn_jax import balls, losses, values
from knn_jax.attacks import batches, checks, judgement
from knn_jax.attacks.attack import Found, MinimizationAttack
from knn_jax.attacks.bisection import BISECTIONS, bisect
from knn_jax.attacks.judgement import Count
from knn_jax.classifiers import GivenImages, GivenLabels, Images, Scores, Surrogate
from knn_jax.neighbors import in_tiles

LANES = 32  # sizes tried at once, of one image or of several


@values.value
class IFGSM(MinimizationAttack):
    """Takes `steps` steps of eps / steps along the sign of the gradient, each clipped to the box.

    The gradient is that of the cross-entropy of the soft votes over the references of x, retrieved
    once. The eps of each image is the smallest that fools among `sizes` equal parts of `largest`; the
    image that it leads to is pulled back towards x by bisection. The norm is only the one measured.

    `gradients` and `forwards` are means over the images, rounded up: a size above the one that fools is
    not tried.
    """

    steps: int = 10
    """Gradient steps for each size that is tried."""
    sizes: int = 100
    """Number of sizes to try at most, equal parts of the largest."""
    largest: float = 1.0
    """Largest change of a pixel that is tried."""
    temperature: float = 0.1
    """Temperature of the soft votes."""

    follows = Surrogate
    adaptive = True
    cites = "Kurakin et al. 2017, arXiv:1607.02533"

    def __post_init__(self):
        _check(self)
        values.at_least(1, steps=self.steps)

    def search(self, key, model, source, x, y, norm):
        """The image at the least size that fools."""
        steps, sizes = self.steps, jnp.int32(self.sizes)
        count = batches.references(source)
        clean = model.right(x, y)

        def batch(x, y, clean):
            references = source.references(x, count)

            def sign(images, y, references):
                def loss(z):
                    scores = source.soft_votes(z, references, self.temperature)
                    return losses.cross_entropy(scores, y).sum()

                return jnp.sign(jax.grad(loss)(images))

            first = sign(x, y, references)

            def trial(example, number):
                share = number.astype(jnp.float32) / sizes.astype(jnp.float32)
                stride = balls.over(self.largest * share / steps, x.shape)
                label, held = y[example], jax.tree.map(lambda leaf: leaf[example], references)

                def step(z, direction):
                    moved = jnp.where(jnp.isnan(direction), 0.0, stride * direction)  # stays an image
                    return jnp.clip(z + moved, 0.0, 1.0)

                image = step(x[example], first[example])
                image = lax.fori_loop(1, steps, lambda _, z: step(z, sign(z, label, held)), image)
                return image, ~model.right(image, label)

            image, tried, fooled = least(trial, x, ~clean, sizes)
            image, _ = bisect(lambda z: ~model.right(z, y), x, image)
            # With no first step the image stays, and so does its gradient.
            return image, tried, judgement.steep(first), fooled

        tile = batches.batch_size(source, x, count)
        image, tried, steep, fooled = in_tiles(batch, tile)(x, y, clean)
        tried = batches.average(tried)
        counts = 1 + (steps - 1) * tried, 2 + tried + BISECTIONS
        return judgement.judge(model, x, y, image, norm, *counts, clean, ~steep, ~fooled)


@values.value
class FGSM(MinimizationAttack):
    """Takes one step along the sign of the gradient, x + eps sign(grad L).

    It is `IFGSM` with one step, which takes one gradient in all. The default of 1000 sizes is that of
    Foolbox 0.8, which Zhao & Cho 2018 attacked with.
    """

    sizes: int = 1000
    """Number of sizes to try at most, equal parts of the largest."""
    largest: float = 1.0
    """Largest change of a pixel that is tried."""
    temperature: float = 0.1
    """Temperature of the soft votes."""

    follows = Surrogate
    cites = "Goodfellow et al. 2015, arXiv:1412.6572"

    def __post_init__(self):
        _check(self)

    def search(self, key, model, source, x, y, norm):
        """The image at the least size that fools."""
        stepped = IFGSM(1, self.sizes, self.largest, self.temperature)
        return stepped.search(key, model, source, x, y, norm)


def _check(knobs: FGSM | IFGSM) -> None:
    values.at_least(1, sizes=knobs.sizes)
    values.above(0, largest=knobs.largest, temperature=knobs.temperature)
    checks.in_box(largest=knobs.largest)


def fgsm(
    key: Array,
    model: Scores,
    x: GivenImages,
    y: GivenLabels,
    *,
    norm: balls.Norm = "l2",
    sizes: int = 1000,
    largest: float = 1.0,
    temperature: float = 0.1,
    source: Surrogate | None = None,
) -> Found:
    """`FGSM`: the shortest step along the sign of the gradient that fools. `key` is not drawn from.

    Where a `source` is given, its soft votes and references stand in for the model's own, which is only
    asked for its decisions.

    Raises ValueError for images outside [0, 1], labels out of range, numbers that are not above 0 and a
    `largest` above 1.
    """
    return FGSM(sizes, largest, temperature)(key, model, x, y, norm=norm, source=source)


def ifgsm(
    key: Array,
    model: Scores,
    x: GivenImages,
    y: GivenLabels,
    *,
    norm: balls.Norm = "l2",
    steps: int = 10,
    sizes: int = 100,
    largest: float = 1.0,
    temperature: float = 0.1,
    source: Surrogate | None = None,
) -> Found:
    """`IFGSM`: `fgsm` in several steps, each along the sign of the gradient where it starts.

    Raises ValueError as `fgsm` does.
    """
    made = IFGSM(steps, sizes, largest, temperature)
    return made(key, model, x, y, norm=norm, source=source)


def least(
    trial: Callable[..., tuple[Images, Bool[Array, " lane"]]],
    x: Images,
    wrong: Bool[Array, " batch"],
    sizes: Count,
) -> tuple[Images, Int[Array, " batch"], Bool[Array, " batch"]]:
    """For each example the image of the first of the sizes 1, 2, ... that fools, x where none does.

    Returns also how many sizes were tried and where one fools. `trial(example, number)` gives images
    and whether they fool, of (lane,) examples and sizes. The lanes are shared evenly among the examples
    still to be fooled, so that a few stubborn ones keep all of them busy; those `wrong` need no trial.
    """

    def pending(state):
        _, tried, fooled = state
        return ~fooled & (tried < sizes)

    def go(state):
        image, tried, fooled = state
        todo = pending(state)
        lane, waiting = jnp.arange(LANES, dtype=jnp.int32), todo.sum(dtype=jnp.int32)
        example = jnp.argsort(~todo)[lane % waiting]
        number = tried[example] + 1 + lane // waiting
        found, fools = trial(example, number)
        fools &= number <= sizes
        first = (jnp.zeros_like(tried) + sizes + 1).at[example].min(jnp.where(fools, number, sizes + 1))
        kept = jnp.where(fools & (number == first[example]), example, len(x))
        image = image.at[kept].set(found, mode="drop")
        return image, tried.at[example].max(number), fooled | (first <= sizes)

    start = x, jnp.zeros(len(x), jnp.int32), wrong
    return lax.while_loop(lambda state: jnp.any(pending(state)), go, start)
