"""Projected gradient ascent inside a ball of fixed radius."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from knn_jax import balls, losses
from knn_jax.attacks import outcome
from knn_jax.attacks.outcome import Found, Images, Labels
from knn_jax.neighbors import in_tiles


def pgd(
    key: Array,
    model: Any,
    x: Images,
    y: Labels,
    *,
    norm: balls.Norm = "linf",
    eps: float,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    refresh: int = 5,
    temperature: float = 0.1,
    loss: Callable[[Images, Labels], Float[Array, " batch"]] | None = None,
) -> Found:
    """Ascends a loss inside the eps-ball around x by projected gradient steps (Madry et al. 2018).

    The loss is by default how far another class leads in the soft vote, its references retrieved
    anew every `refresh` steps; `loss` may be any other, `(images, y) -> (batch,)`, of any networks.
    Starts are uniform in the ball, steps are 2.5 eps / steps unless given. What is returned is the
    iterate, among those at each retrieval and at the end of each restart, with the lowest margin of
    hard votes. The last clip keeps the ball: moving towards the pixel box, which contains x, never
    moves away from x.

    Raises ValueError for images outside [0, 1], labels out of range and numbers that are too small.
    """
    x, y = outcome.check(model, x, y)
    if not (eps >= 0 and steps > 0 and restarts > 0 and refresh > 0):
        raise ValueError(
            f"eps={eps}, steps={steps}, restarts={restarts}, refresh={refresh}: eps must be 0 or more, "
            "the others at least 1"
        )
    size = 2.5 * eps / steps if step_size is None else step_size
    return _pgd(
        key,
        model,
        x,
        y,
        jnp.float32(eps),
        jnp.float32(size),
        jnp.float32(temperature),
        loss if loss is None or isinstance(loss, Partial) else Partial(loss),
        norm=norm,
        steps=steps,
        restarts=restarts,
        refresh=refresh,
    )


@functools.partial(jax.jit, static_argnames=("norm", "steps", "restarts", "refresh"))
def _pgd(key, model, x, y, eps, size, temperature, loss, *, norm, steps, restarts, refresh):
    ball = balls.ball(norm, eps)
    count = outcome.references(model)

    def batch(place, x, y):
        keys = outcome.keys(key, place)

        def ascend(x_adv, references):
            def total(z):
                if loss is not None:
                    return loss(z, y).sum()
                return -losses.margin(model.soft_votes(z, references, temperature), y).sum()

            x_adv = x_adv + size * ball.steepest(jax.grad(total)(x_adv))
            return jnp.clip(x + ball.project(x_adv - x), 0.0, 1.0)

        def lower(best, x_adv):
            image, least = best
            margin = model.margin(x_adv, y)
            better = margin < least
            return jnp.where(balls.over(better, x.shape), x_adv, image), jnp.minimum(margin, least)

        def restart(best, number):
            sample = jax.vmap(lambda k: ball.sample(jax.random.fold_in(k, number), (1, *x.shape[1:])))
            x_adv = jnp.clip(x + sample(keys)[:, 0], 0.0, 1.0)

            def period(carry, first):
                best, x_adv = carry
                references = None if loss is not None else model.references(x_adv, count)
                last = jnp.minimum(first + refresh, steps)
                x_adv = lax.fori_loop(first, last, lambda _, z: ascend(z, references), x_adv)
                return (lower(best, x_adv), x_adv), None

            return lax.scan(period, (best, x_adv), jnp.arange(0, steps, refresh))[0][0], None

        start = (x, model.margin(x, y))
        return lax.scan(restart, start, jnp.arange(restarts))[0][0]

    tile = outcome.batch_size(model, x, count)
    image = in_tiles(batch, tile)(jnp.arange(len(x)), x, y)
    searches = -(-steps // refresh) * restarts * (1 if loss is not None else 2)
    return outcome.judge(model, x, y, image, norm, steps * restarts, searches + 1)
