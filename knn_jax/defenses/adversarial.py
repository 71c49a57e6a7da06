"""Adversarial training of any representation, on perturbed images only (Madry et al. 2018)."""

import jax
import jax.numpy as jnp
from jax import lax

from knn_jax import balls
from knn_jax.defenses.defense import Defense


def adversarial(
    defense: Defense, norm: balls.Norm, eps: float, *, steps: int, step_size: float
) -> Defense:
    """The defense's loss on images perturbed by `steps` gradient ascents of that loss.

    Starts are uniform in the ball, or for L2 normal with deviation `step_size` in each pixel, as in
    paper 1's code; with eps = 0 the steps are not projected, as there. A pixel is clipped to [0, 1]
    after each step. The ascents use running statistics and leave them as they are (in paper 1's code
    each moved them); those of the batch are taken once, of the perturbed images.
    """
    ball = balls.ball(norm, eps or jnp.inf)

    def perturbed(variables, key, batch):
        start, noise = jax.random.split(key)
        shape = batch.clean.shape
        delta = (
            step_size * jax.random.normal(start, shape) if norm == "l2" else ball.sample(start, shape)
        )

        def total(x):
            return jnp.sum(defense.loss(variables, noise, batch._replace(x=x)))

        def ascend(_, x):
            x = x + step_size * ball.steepest(jax.grad(total)(x))
            return jnp.clip(batch.clean + ball.project(x - batch.clean), 0.0, 1.0)

        return lax.fori_loop(0, steps, ascend, batch.clean + delta)

    def on_perturbed(function):
        def found(variables, key, batch):
            attack, own = jax.random.split(key)
            x = lax.stop_gradient(perturbed(variables, attack, batch))
            return function(variables, own, batch._replace(x=x))

        return found

    learn = on_perturbed(defense.learn) if defense.learn else None
    return defense._replace(loss=on_perturbed(defense.loss), learn=learn)
