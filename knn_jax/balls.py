"""Balls around an image: how to measure, sample, ascend in and project to them."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Shaped

Norm = Literal["l2", "linf"]
Delta = Float[Array, "batch *pixel"]
Images = Float[Array, "batch height width channel"]
Radius = float | Float[Array, "..."]


class Ball(NamedTuple):
    """All perturbations of norm at most eps; eps is one number or one for each example.

    norm      delta -> (batch,)
    sample    (key, shape) -> delta, uniform in the ball
    steepest  gradient -> the delta of norm 1 along which it ascends most
    project   delta -> the nearest delta in the ball
    """

    norm: Callable[[Delta], Float[Array, " batch"]]
    sample: Callable[..., Delta]
    steepest: Callable[[Delta], Delta]
    project: Callable[[Delta], Delta]


def ball(norm: Norm, eps: Radius) -> Ball:
    """The ball of that norm. Raises ValueError for an unknown one."""
    if norm not in ("l2", "linf"):
        raise ValueError(f"norm {norm!r}: use 'l2' or 'linf'")
    return l2(eps) if norm == "l2" else linf(eps)


def linf(eps: Radius) -> Ball:
    """The Linf ball, max |delta| <= eps."""

    def norm(delta):
        return jnp.abs(delta).reshape(delta.shape[0], -1).max(1)

    def sample(key, shape):
        return over(eps, shape) * jax.random.uniform(key, shape, jnp.float32, minval=-1.0)

    def project(delta):
        limit = over(eps, delta.shape)
        return jnp.clip(delta, -limit, limit)

    return Ball(norm, sample, jnp.sign, project)


def l2(eps: Radius) -> Ball:
    """The L2 ball, sqrt(sum delta^2) <= eps."""

    def norm(delta):
        return jax.vmap(lambda d: optax.safe_norm(d, 0.0))(delta.reshape(delta.shape[0], -1))

    def unit(delta):
        # In units of its largest number: squares of small gradients round to 0, of large ones to inf.
        most = over(linf(0.0).norm(delta), delta.shape)
        delta = delta / jnp.where(most > 0, most, 1.0)
        length = over(norm(delta), delta.shape)
        return delta / jnp.where(length > 0, length, 1.0)

    def sample(key, shape):
        key, radial = jax.random.split(key)
        dims = 1
        for side in shape[1:]:
            dims *= side
        length = jax.random.uniform(radial, shape[:1], jnp.float32) ** (1 / dims)
        return over(eps * length, shape) * unit(jax.random.normal(key, shape, jnp.float32))

    def project(delta):
        length = over(norm(delta), delta.shape)
        limit = over(eps, delta.shape)
        return jnp.where(length > limit, delta * (limit / jnp.maximum(length, limit)), delta)

    return Ball(norm, sample, unit, project)


def step(ball: Ball, clean: Images, x: Images, gradient: Images, size: Radius) -> Images:
    """The step of projected gradient ascent from x, to [0, 1] and the ball around the clean image; by a
    size below 0 of descent. A number of the gradient that is NaN moves nothing: the image stays one.

    The last clip keeps the ball: moving towards the pixel box, which contains the clean image, never
    moves away from it.
    """
    moved = x + over(size, x.shape) * ball.steepest(jnp.where(jnp.isnan(gradient), 0.0, gradient))
    return jnp.clip(clean + ball.project(moved - clean), 0.0, 1.0)


def over(value: float | Shaped[Array, "..."], shape: tuple[int, ...]) -> Shaped[Array, "..."]:
    """A value for each example, or one for all, shaped to broadcast against arrays of `shape`."""
    value = jnp.asarray(value)
    return value.reshape(value.shape + (1,) * (len(shape) - value.ndim))
