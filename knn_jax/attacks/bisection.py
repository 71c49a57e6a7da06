"""From an image that fools back to the boundary, by questions alone."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from knn_jax import balls
from knn_jax.classifiers import Images

BISECTIONS = 11  # questions on the way from an image to one of another class, the first at its end


def bisect(
    fooled: Callable[[Images], Array], x: Images, image: Images
) -> tuple[Images, Bool[Array, " batch"]]:
    """The fooling end of the way from x to `image`, bisected at the boundary, and whether it does fool:
    where `image` does not, the whole way is given back."""

    def half(_, ends):
        low, high, found = ends
        middle = jnp.where(found, (low + high) / 2, high)
        wrong = fooled(x + balls.over(middle, x.shape) * (image - x))
        low, high = jnp.where(found & ~wrong, middle, low), jnp.where(wrong, middle, high)
        return low, high, found | wrong

    ends = jnp.zeros(len(x), x.dtype), jnp.ones(len(x), x.dtype), jnp.zeros(len(x), bool)
    _, high, found = lax.fori_loop(0, BISECTIONS, half, ends)
    return x + balls.over(high, x.shape) * (image - x), found


def nearest_of(
    images: Float[Array, "start batch *pixel"], norm: Float[Array, "start batch"]
) -> tuple[Images, Float[Array, " batch"]]:
    """Of several images for each example the one of the least norm, and that norm."""
    place = balls.over(norm.argmin(0)[None], images.shape)
    return jnp.take_along_axis(images, place, 0)[0], norm.min(0)
