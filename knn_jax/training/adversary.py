"""An adversary in training: perturbs images to raise a loss, by projected gradient steps."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from knn_jax import balls, values
from knn_jax.balls import Delta, Images


@values.value
class Adversary:
    """Training images are perturbed by so many gradient steps in a ball (Madry et al. 2018)."""

    norm: balls.Norm
    """Norm of the ball and of the steps."""
    eps: float | None = None
    """Radius of the ball of perturbed images, in units of the images; None: L2 steps are not
    projected. (So does the code of Sitawarin & Wagner 2019.)"""
    steps: int = 40
    """Gradient steps of the adversary."""
    step_size: float = 0.1
    """Length of a gradient step of the adversary, in units of the images."""

    def __post_init__(self):
        values.one_of(("l2", "linf"), norm=self.norm)
        values.above(0, step_size=self.step_size, eps=self.eps)
        values.at_least(1, steps=self.steps)
        if self.norm == "linf" and self.eps is None:
            raise ValueError("eps=None with norm='linf': give the radius of its ball")

    @property
    def ball(self) -> balls.Ball:
        """The ball that perturbations stay in."""
        return balls.ball(self.norm, jnp.inf if self.eps is None else self.eps)

    def start(self, key: Array, shape: tuple[int, ...]) -> Delta:
        """Perturbations to begin with: uniform in the ball, or for L2 normal with the deviation of a
        step in each pixel, as in the code of Sitawarin & Wagner 2019."""
        if self.norm == "l2":
            return self.step_size * jax.random.normal(key, shape)
        return self.ball.sample(key, shape)

    def ascend(self, loss: Callable[[Images], Array], clean: Images, start: Images) -> Images:
        """Images in [0, 1] and in the ball around the clean ones, after steps that raise their loss."""
        return ascend(loss, clean, start, self.ball, self.steps, self.step_size)


def ascend(
    loss: Callable[[Images], Array],
    clean: Images,
    start: Images,
    ball: balls.Ball,
    steps: int,
    step_size: float | Float[Array, ""],
) -> Images:
    """Images in [0, 1] and in the ball around the clean ones, after steps that raise their loss."""

    def step(_, x):
        gradient = jax.grad(lambda z: jnp.sum(loss(z)))(x)
        return balls.step(ball, clean, x, gradient, step_size)

    return lax.stop_gradient(lax.fori_loop(0, steps, step, start))
