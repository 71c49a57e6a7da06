"""The Voronoi certificate in Linf: how far each pixel may change, from the bisectors between images."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from knn_jax import values
from knn_jax.certificates.certificate import Certificate
from knn_jax.certificates.order_statistics import counts, least_crossed, nearest_of_each_side, radii
from knn_jax.classifiers import BATCH, Certifiable, GivenImages, GivenLabels
from knn_jax.neighbors import in_tiles

HELD = 2**25  # differences of rows held at once


@values.value
class VoronoiLinf(Certificate):
    """The Linf distance to the nearest bisectors between images of class y and images of other classes.

    Neighbours are near by the Euclidean distance, as for `Voronoi`; the perturbation is measured by the
    largest change of a pixel. It covers classifiers on the pixels themselves.
    """

    own: int = 16
    """Nearest images of the image's class whose bisectors are measured, at least twice a majority of
    k."""
    other: int = 256
    """Nearest images of other classes whose bisectors are measured; those farther away count with a
    lower bound."""

    norm = "linf"
    of_pixels = True
    cites = "the bisectors of Wang et al. 2019, arXiv:1906.03972, in the dual norm"

    def __post_init__(self):
        values.at_least(1, own=self.own, other=self.other)

    def bound(self, key, model, x, y, lipschitz):
        """The radius of each image, rounded down.

        A perturbation u crosses the bisector of w and z where <u, w - z> is half of d(x,w)^2 -
        d(x,z)^2, which takes at least that over |w - z|_1 in Linf. Rounding is allowed for here and at
        the perturbed image, whose distances are larger by up to sqrt(dim) times the radius.
        """
        del key
        (bank,) = model.banks
        dim = bank.shape[1]
        own, other = counts(model, self.own, self.other)
        spread = dim**0.5  # the most that an L2 norm is of an Linf norm

        def batch(x, y):
            near = nearest_of_each_side(model, model.first(x), y, own, other)
            z, w = bank[near.own.index], bank[near.other.index]
            dz, dw = near.own.distance[:, None, :], near.other.distance[:, :, None]
            absolute = near.absolute[:, None, None]
            apart = jnp.sum(jnp.abs(w[:, :, None] - z[:, None]), -1)
            apart = apart * (1 + 4 * near.relative) + 2 * spread * absolute
            apart = jnp.maximum(apart, jnp.finfo(x.dtype).tiny)
            lead = jnp.square(dw) - jnp.square(dz)
            # At most as far without rounding; no perturbation leaves the box.
            reach = spread * jnp.clip(lead / (2 * apart), 0.0, 1.0)
            rounding = 12 * near.relative * jnp.square(dw + reach)
            rounding += 8 * absolute * (dw + dz + 2 * reach)
            bisector = (lead - rounding) / (2 * apart)
            return radii(near, least_crossed(model, near, bisector, spread), lipschitz)

        tile = max(1, min(BATCH, HELD // (own * other * dim)))
        return {"radius": in_tiles(batch, tile)(x, y)}


def voronoi_linf(
    model: Certifiable, x: GivenImages, y: GivenLabels, *, own: int = 16, other: int = 256
) -> Float[Array, " batch"]:
    """`VoronoiLinf`: a radius in Linf within which the vote of neighbours on pixels does not change.

    0 means that there is no radius. Raises ValueError as `margin` does, for features that are not the
    pixels, and for less than one row of each side.
    """
    return VoronoiLinf(own, other)(model, x, y)
