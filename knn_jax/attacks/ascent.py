"""What attacks have that climb a loss by projected gradient steps in a ball."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from knn_jax import balls, values
from knn_jax.attacks import batches, judgement
from knn_jax.attacks.attack import BallAttack, Found, Images, Labels
from knn_jax.classifiers import Scores
from knn_jax.neighbors import in_tiles
from knn_jax.values import given
from knn_jax.values.given import Real


@values.value
class Ascent(BallAttack):
    """What attacks have that climb a loss by projected gradient steps."""

    steps: int = 20
    """Gradient steps from each start."""
    step_size: float | None = None
    """Length of a step as a share of eps; None: 2.5 / steps."""
    restarts: int = 1
    """Random starts in the ball, of which the best counts."""

    def __post_init__(self):
        values.at_least(1, steps=self.steps, restarts=self.restarts)
        values.at_least(0, step_size=self.step_size)

    def ascend(
        self,
        key: Array,
        model: Scores,
        x: Images,
        y: Labels,
        retrieve: Callable[..., PyTree],
        loss: Callable[..., Float[Array, " batch"]],
        norm: balls.Norm,
        eps: Float[Array, ""],
        *,
        refresh: int = 0,
        searches: int = 1,
    ) -> Found:
        """The ascent of a loss with what it needs of a batch: retrieved, and its loss. Inside a jit.

        `retrieve(keys, images, y)` is asked at x, or where `refresh` is above 0 at every so many steps;
        it computes features `searches` times. `loss(images, y, retrieved)` gives what is ascended.
        Starts are uniform in the ball.
        """
        steps, restarts = self.steps, self.restarts
        size = eps * (2.5 / steps if self.step_size is None else self.step_size)
        ball, period = balls.ball(norm, eps), refresh or steps
        periods = -(-steps // period) * restarts
        clean, lead = judgement.standing(model, x, y)

        def batch(place, x, y, clean, lead):
            keys = batches.keys(key, place)
            at_first = None if refresh else retrieve(keys, x, y)

            def step(retrieved, _, carry):
                x_adv, steep = carry
                gradient = jax.grad(lambda z: loss(z, y, retrieved).sum())(x_adv)
                return balls.step(ball, x, x_adv, gradient, size), steep | judgement.steep(gradient)

            def lower(best, x_adv):
                image, right, least = best
                still, margin = judgement.standing(model, x_adv, y)
                better = (right & ~still) | ((right == still) & (margin < least))
                kept = jnp.where(balls.over(better, x.shape), x_adv, image)
                return kept, right & still, jnp.where(better, margin, least)

            def sample(number):
                shape = (1, *x.shape[1:])
                return jax.vmap(lambda k: ball.sample(jax.random.fold_in(k, number), shape))(keys)[:, 0]

            def restart(carry, number):
                best, steep = carry
                x_adv = jnp.clip(x + sample(number), 0.0, 1.0)

                def climb(carry, first):
                    best, x_adv, steep = carry
                    retrieved = retrieve(keys, x_adv, y) if refresh else at_first
                    last = jnp.minimum(first + period, steps)
                    once = functools.partial(step, retrieved)
                    x_adv, steep = lax.fori_loop(first, last, once, (x_adv, steep))
                    # A single iterate is left to the judge.
                    best = lower(best, x_adv) if periods > 1 else (x_adv, *best[1:])
                    return (best, x_adv, steep), None

                (best, _, steep), _ = lax.scan(
                    climb, (best, x_adv, steep), jnp.arange(0, steps, period)
                )
                return (best, steep), None

            start = (x, clean, lead), jnp.zeros(len(x), bool)
            ((image, _, _), steep), _ = lax.scan(restart, start, jnp.arange(restarts))
            return image, steep

        held = jax.eval_shape(
            lambda k, x, y: retrieve(batches.keys(k, jnp.arange(1)), x, y), key, x[:1], y[:1]
        )
        image, steep = in_tiles(batch, batches.max_batch(held))(jnp.arange(len(x)), x, y, clean, lead)
        forwards = 1 + (periods if periods > 1 else 0) + searches * (periods if refresh else 1)
        return judgement.judge(model, x, y, image, norm, steps * restarts, forwards, clean, ~steep)


def relative(step_size: Real | None, eps: Real) -> PyTree:
    """A step's length as a share of eps; ValueError for a negative one."""
    if step_size is None:
        return None
    step_size, eps = given.real("step_size", step_size), given.real("eps", eps)
    values.at_least(0, step_size=step_size)
    if isinstance(eps, Tracer) or isinstance(step_size, Tracer):
        return jnp.where(eps > 0, step_size / jnp.where(eps > 0, eps, 1.0), 0.0)
    length, radius = float(step_size), float(eps)  # no arrays: in a caller's jit these would be traced
    return length / radius if radius > 0 else 0.0
