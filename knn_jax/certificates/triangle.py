"""The certificate of paper 1, by the triangle inequality."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from knn_jax.certificates.sides import check, constant, majority, sides
from knn_jax.classifiers import BATCH, Images, Labels
from knn_jax.neighbors import in_tiles


def margin(
    model: Any, x: Images, y: Labels, *, lipschitz: float | None = None
) -> Float[Array, " batch"]:
    """Half the margin m(x)/2 of distances (Sitawarin & Wagner 2019, eq. 5), in the images' L2.

    `lipschitz` is the constant of the features in L2, and need not be given of a classifier on the
    inputs themselves, `classifiers.knn(None, ...)`. 0 means none: another class is as near, or features
    are no numbers, or their squares are none in float32. Their bound for k = 1 goes with order
    statistics for any k (see `sides`). Rounded down by what float32 can be wrong in the distances here
    and at the perturbed image, and by features whose rounding error is up to 2^-20 of the largest norm
    in the bank.

    Raises ValueError for features without a constant, and what else cannot be certified.
    """
    x, y = check(model, x, y)
    return _margin(model, x, y, constant(model, lipschitz))


@jax.jit
def _margin(model, x, y, lipschitz):
    own, other = majority(model.k)

    def batch(x, y):
        near = sides(model, model.first(x), y, own, other)
        slack = near.relative  # half of it for each root, here and at the perturbed image
        nearer = near.other.distance[:, -1] * (1 - slack) - near.own.distance[:, -1] * (1 + slack)
        radius = nearer / 2 - 4 * near.absolute
        return jnp.where(near.vouched & (radius > 0), radius, 0.0) / lipschitz

    return in_tiles(batch, BATCH)(x, y)
