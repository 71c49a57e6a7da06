"""Steps along the sign of the gradient, as long as the shortest that fools."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from knn_jax import balls, losses
from knn_jax.attacks import outcome
from knn_jax.attacks.outcome import Found, Images, Labels, Number
from knn_jax.neighbors import in_tiles

LANES = 32  # sizes tried at once, of one image or of several


def fgsm(
    key: Array,
    model: Any,
    x: Images,
    y: Labels,
    *,
    norm: balls.Norm = "l2",
    sizes: int = 1000,
    largest: Number = 1.0,
    temperature: Number = 0.1,
    source: Any = None,
) -> Found:
    """One step along the sign of the gradient, x + eps sign(grad L) (Goodfellow et al. 2015).

    `ifgsm` with one step, which takes one gradient in all; 1000 sizes are those of Foolbox 0.8, which
    paper 2 attacked with.
    """
    return ifgsm(
        key,
        model,
        x,
        y,
        norm=norm,
        steps=1,
        sizes=sizes,
        largest=largest,
        temperature=temperature,
        source=source,
    )


def ifgsm(
    key: Array,
    model: Any,
    x: Images,
    y: Labels,
    *,
    norm: balls.Norm = "l2",
    steps: int = 10,
    sizes: int = 100,
    largest: Number = 1.0,
    temperature: Number = 0.1,
    source: Any = None,
) -> Found:
    """`steps` steps of eps / steps along the sign of the gradient, each clipped (Kurakin et al. 2017).

    L is the cross-entropy of the soft votes, their references those of x throughout. Each image's eps
    is the least that fools of `sizes` equal parts of `largest`; what it leads to is pulled back
    towards x as far as it fools. `norm` is the one measured. Where a `source` is given, its soft votes
    and references stand in for the model's own, which is only asked for its decisions.

    `gradients` and `forwards` are means over the images, rounded up: a size above the one that fools
    is not tried. `key` is not drawn from. Raises ValueError for images outside [0, 1], labels out of
    range, numbers that are not above 0 and a `largest` above 1.
    """
    del key
    x, y = outcome.check(model, x, y)
    outcome.positive(steps=steps, sizes=sizes, largest=largest, temperature=temperature)
    outcome.in_box(largest=largest)
    source = model if source is None else source
    numbers = jnp.int32(sizes), jnp.float32(largest), jnp.float32(temperature)
    return _ifgsm(model, source, x, y, *numbers, norm=norm, steps=steps)


@functools.partial(jax.jit, static_argnames=("norm", "steps"))
def _ifgsm(model, source, x, y, sizes, largest, temperature, *, norm, steps):
    count = outcome.references(source)
    clean = model.right(x, y)

    def batch(x, y, clean):
        references = source.references(x, count)

        def sign(images, y, references):
            def loss(z):
                return losses.cross_entropy(source.soft_votes(z, references, temperature), y).sum()

            return jnp.sign(jax.grad(loss)(images))

        first = sign(x, y, references)

        def trial(example, number):
            share = number.astype(jnp.float32) / sizes.astype(jnp.float32)
            stride = balls.over(largest * share / steps, x.shape)
            own, held = y[example], jax.tree.map(lambda leaf: leaf[example], references)

            def step(z, direction):
                moved = jnp.where(jnp.isnan(direction), 0.0, stride * direction)  # it stays an image
                return jnp.clip(z + moved, 0.0, 1.0)

            image = step(x[example], first[example])
            image = lax.fori_loop(1, steps, lambda _, z: step(z, sign(z, own, held)), image)
            return image, ~model.right(image, own)

        image, tried, fooled = least(trial, x, ~clean, sizes)
        # With no first step the image stays, and so does its gradient.
        return (
            outcome.halve(lambda z: ~model.right(z, y), x, image),
            tried,
            outcome.steep(first),
            fooled,
        )

    image, tried, steep, fooled = in_tiles(batch, outcome.batch_size(source, x, count))(x, y, clean)
    tried = outcome.average(tried)
    gradients = 1 + (steps - 1) * tried
    forwards = 2 + tried + outcome.HALVINGS
    return outcome.judge(model, x, y, image, norm, gradients, forwards, clean, ~steep, ~fooled)


def least(
    trial: Callable[..., tuple[Images, Bool[Array, " lane"]]],
    x: Images,
    wrong: Bool[Array, " batch"],
    sizes: Int[Array, ""],
) -> tuple[Images, Int[Array, " batch"], Bool[Array, " batch"]]:
    """The images of the first of sizes 1, 2, ... that fools, x where none does; how many were tried,
    and where one fools.

    `trial(example, number)` gives images and whether they fool, of (lane,) examples and sizes. The
    lanes are shared evenly among the examples still to be fooled, so that a few stubborn ones keep
    all of them busy; those `wrong` need no trial.
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
