"""Projected gradient ascent inside a ball of fixed radius."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from knn_jax import balls
from knn_jax.attacks import outcome
from knn_jax.attacks.outcome import Found, Images, Labels, Number
from knn_jax.neighbors import in_tiles


def pgd(
    key: Array,
    model: Any,
    x: Images,
    y: Labels,
    *,
    norm: balls.Norm = "linf",
    eps: Number,
    steps: int = 20,
    step_size: Number | None = None,
    restarts: int = 1,
    refresh: int = 5,
    temperature: float | None = None,
    loss: Callable[[Images, Labels], Float[Array, " batch"]] | None = None,
    source: Any = None,
) -> Found:
    """Ascends a loss inside the eps-ball around x by projected gradient steps (Madry et al., 2018).

    The loss is by default how far another class leads in the soft vote, its references retrieved
    anew every `refresh` steps, or with 0 those of x throughout; `loss` may be any other, `(images, y)
    -> (batch,)`, of any networks. Where a `source` is given, its soft votes and references stand in
    for the model's own, which is only asked for its decisions: the gray box.

    Soft votes are by default at temperature 1 where rows vote, else at .1. (On a small VGG trained
    adversarially, 200 images of MNIST, 1 leaves .425 within .25 and .1 leaves .500; on pixels, 300
    images, .460 and .447 within 60/255.)

    Starts are uniform in the ball, steps are 2.5 eps / steps unless given. What is returned is the
    iterate, among those at each retrieval and at the end of each restart, with the lowest margin of
    hard votes.

    Raises ValueError for images outside [0, 1], labels out of range, numbers that are too small and an
    `eps` above 1 in Linf.
    """
    x, y = outcome.check(model, x, y)
    size = check(norm, eps, steps, step_size, restarts, refresh)
    source = model if source is None else source
    if temperature is None:
        temperature = 1.0 if outcome.taps(source) else 0.1
    outcome.positive(temperature=temperature)
    return _pgd(
        key,
        model,
        source,
        x,
        y,
        jnp.float32(eps),
        size,
        jnp.float32(temperature),
        loss if loss is None or isinstance(loss, Partial) else Partial(loss),
        norm=norm,
        steps=steps,
        restarts=restarts,
        refresh=refresh,
    )


def check(
    norm: Any, eps: Any, steps: int, step_size: Number | None, restarts: int, refresh: int
) -> Array:
    """The length of a step; raises ValueError for numbers that are too small, and in Linf for an eps
    above the width of the box."""
    (outcome.in_box if norm == "linf" else outcome.not_negative)(eps=eps)
    if not (steps > 0 and restarts > 0 and refresh >= 0):
        raise ValueError(
            f"steps={steps}, restarts={restarts}, refresh={refresh}: the first two must be at least 1, "
            "refresh not below 0"
        )
    if step_size is not None:
        outcome.not_negative(step_size=step_size)
    return jnp.float32(2.5 * eps / steps if step_size is None else step_size)


@functools.partial(jax.jit, static_argnames=("norm", "steps", "restarts", "refresh"))
def _pgd(key, model, source, x, y, eps, size, temperature, loss, *, norm, steps, restarts, refresh):
    count = outcome.references(source)

    def retrieve(keys, z, y):
        return () if loss is not None else source.references(z, count)

    def surrogate(z, y, references):
        if loss is not None:
            each = loss(z, y)
            if each.shape != y.shape:
                raise ValueError(
                    f"the loss is {each.shape}: one number for each of {len(y)} images needed"
                )
            return each
        return -outcome.lead(model, source.soft_votes(z, references, temperature), y)

    return ascend(
        key,
        model,
        x,
        y,
        retrieve,
        surrogate,
        norm=norm,
        eps=eps,
        size=size,
        steps=steps,
        restarts=restarts,
        refresh=refresh,
        searches=0 if loss is not None else 1,
    )


def ascend(
    key: Array,
    model: Any,
    x: Images,
    y: Labels,
    retrieve: Callable[..., Any],
    loss: Callable[..., Float[Array, " batch"]],
    *,
    norm: Any,  # balls.ball refuses what is none
    eps: Array,
    size: Array,
    steps: int,
    restarts: int,
    refresh: int,
    searches: int = 1,
    at_random: bool = True,
) -> Found:
    """The ascent of `pgd` with what it needs of a batch: retrieved, and its loss. Inside a jit.

    `retrieve(keys, images, y)` is asked at x, or where `refresh` is above 0 at every so many steps; it
    computes features `searches` times. `loss(images, y, retrieved)` gives what is ascended. Starts are
    `at_random` in the ball, or x. A norm above eps by rounding is told as eps.
    """
    ball, period = balls.ball(norm, eps), refresh or steps
    periods = -(-steps // period) * restarts
    clean, lead = outcome.standing(model, x, y)

    def batch(place, x, y, clean, lead):
        keys = outcome.keys(key, place)
        at_first = None if refresh else retrieve(keys, x, y)

        def step(carry, retrieved):
            x_adv, steep = carry
            gradient = jax.grad(lambda z: loss(z, y, retrieved).sum())(x_adv)
            return balls.step(ball, x, x_adv, gradient, size), steep | outcome.steep(gradient)

        def lower(best, x_adv):
            image, right, least = best
            still, margin = outcome.standing(model, x_adv, y)
            better = (right & ~still) | ((right == still) & (margin < least))
            kept = jnp.where(balls.over(better, x.shape), x_adv, image)
            return kept, right & still, jnp.where(better, margin, least)

        def restart(carry, number):
            best, steep = carry
            sample = jax.vmap(lambda k: ball.sample(jax.random.fold_in(k, number), (1, *x.shape[1:])))
            x_adv = jnp.clip(x + sample(keys)[:, 0], 0.0, 1.0) if at_random else x

            def climb(carry, first):
                best, x_adv, steep = carry
                retrieved = retrieve(keys, x_adv, y) if refresh else at_first
                last = jnp.minimum(first + period, steps)
                climbed = lax.fori_loop(first, last, lambda _, c: step(c, retrieved), (x_adv, steep))
                x_adv, steep = climbed
                # A single iterate is left to the judge.
                best = lower(best, x_adv) if periods > 1 else (x_adv, *best[1:])
                return (best, x_adv, steep), None

            (best, _, steep), _ = lax.scan(climb, (best, x_adv, steep), jnp.arange(0, steps, period))
            return (best, steep), None

        start = (x, clean, lead), jnp.zeros(len(x), bool)
        ((image, _, _), steep), _ = lax.scan(restart, start, jnp.arange(restarts))
        return image, steep

    held = jax.eval_shape(
        lambda k, x, y: retrieve(outcome.keys(k, jnp.arange(1)), x, y), key, x[:1], y[:1]
    )
    image, steep = in_tiles(batch, outcome.fitting(held))(jnp.arange(len(x)), x, y, clean, lead)
    forwards = 1 + (periods if periods > 1 else 0) + searches * (periods if refresh else 1)
    found = outcome.judge(model, x, y, image, norm, steps * restarts, forwards, clean, ~steep)
    # Rounding takes an image at the rim of the ball to either side of it.
    return found._replace(norm=jnp.where(found.success, jnp.minimum(found.norm, eps), found.norm))
