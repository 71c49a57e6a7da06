"""Adversarial training of any representation, on perturbed images only (Madry et al. 2018)."""

import jax
import jax.numpy as jnp

from knn_jax import balls
from knn_jax.defenses.defense import Defense
from knn_jax.defenses.generators import ascend


def adversarial(
    defense: Defense, norm: balls.Norm, eps: float, *, steps: int, step_size: float
) -> Defense:
    """The defense's loss on images perturbed by `steps` gradient ascents of that loss.

    Starts are uniform in the ball, or for L2 normal with deviation `step_size` in each pixel, as in
    paper 1's code; with eps = 0 the steps are not projected, as there. A pixel is clipped to [0, 1]
    after each step. The ascents use running statistics and leave them as they are (in paper 1's code
    each moved them); those of the batch are taken once, of the perturbed images. An example that only
    fills the batch has no part in what is ascended, which for some losses depends on all of a batch.
    """
    ball = balls.ball(norm, eps or jnp.inf)

    def perturbed(variables, key, batch):
        start, noise = jax.random.split(key)
        shape = batch.clean.shape
        delta = (
            step_size * jax.random.normal(start, shape) if norm == "l2" else ball.sample(start, shape)
        )

        def total(x):
            return jnp.where(batch.there, defense.loss(variables, noise, batch._replace(x=x)), 0.0)

        return ascend(total, batch.clean, batch.clean + delta, ball, steps, step_size)

    def on_perturbed(function):
        def found(variables, key, batch):
            attack, own = jax.random.split(key)
            return function(variables, own, batch._replace(x=perturbed(variables, attack, batch)))

        return found

    learn = on_perturbed(defense.learn) if defense.learn else None
    return defense._replace(loss=on_perturbed(defense.loss), learn=learn)
