"""The Voronoi certificate: distances to the bisectors between rows."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from knn_jax import values
from knn_jax.certificates.certificate import Certificate
from knn_jax.certificates.order_statistics import counts, least_crossed, nearest_of_each_side, radii
from knn_jax.classifiers import BATCH, Certifiable, GivenImages, GivenLabels
from knn_jax.neighbors import in_tiles
from knn_jax.values.given import Real

HIGHEST = lax.Precision.HIGHEST
HELD = 2**25  # numbers of neighbours' features


@values.value
class Voronoi(Certificate):
    """The distance to the nearest bisectors between rows of class y and rows of other classes."""

    own: int = 32
    """Nearest rows of the image's class whose bisectors are measured, at least twice a majority of
    k."""
    other: int = 256
    """Nearest rows of other classes whose bisectors are measured; those farther away count with a lower
    bound."""

    cites = "bisectors of Wang et al. 2019, arXiv:1906.03972"

    def __post_init__(self):
        values.at_least(1, own=self.own, other=self.other)

    def bound(self, key, model, x, y, lipschitz):
        """The radius of each image, rounded down."""
        del key
        (bank,) = model.banks
        own, other = counts(model, self.own, self.other)

        def batch(x, y):
            query = model.first(x)
            near = nearest_of_each_side(model, query, y, own, other)
            z, w = (bank[n.index] - query[:, None] for n in (near.own, near.other))
            dz, dw = near.own.distance[:, None, :], near.other.distance[:, :, None]
            # About x both norms are distances, so rounding is relative to them here too.
            squared = jnp.einsum("bwd,bzd->bwz", w, z, precision=HIGHEST)
            squared = jnp.square(dw) + jnp.square(dz) - 2 * squared
            absolute = near.absolute[:, None, None]
            apart = jnp.sqrt(jnp.maximum(squared, 0.0) + 4 * near.relative * jnp.square(dw + dz))
            rounding = 12 * near.relative * jnp.square(dw) + 8 * absolute * (dw + dz)
            bisector = (jnp.square(dw) - jnp.square(dz) - rounding) / (2 * (apart + 2 * absolute))
            return radii(near, least_crossed(model, near, bisector), lipschitz)

        tile = max(1, min(BATCH, HELD // ((own + other) * bank.shape[1])))
        return {"radius": in_tiles(batch, tile)(x, y)}


def voronoi(
    model: Certifiable,
    x: GivenImages,
    y: GivenLabels,
    *,
    lipschitz: Real | None = None,
    own: int = 32,
    other: int = 256,
) -> Float[Array, " batch"]:
    """`Voronoi`: a radius in L2 within which the vote does not change, from the bisectors between rows.

    A row w of another class comes nearer than a row z of class y only beyond their bisector, at
    (d(x,w)^2 - d(x,z)^2) / (2 d(w,z)). So for k = 1 the radius is the least over all w of the
    greatest over z; for any k the order statistics of `order_statistics` take their places. The `other`
    nearest w stand beside the `own` nearest z; any w farther away counts with (d(x,w) - d(x,z))/2, a
    lower bound, so that more rows only tighten the radius. It is never below `margin`'s but for
    rounding, of which it is sound by the same allowances. 0 means that there is no radius, and
    `lipschitz` is the constant of the features, as for `margin`.

    Raises ValueError as `margin` does, and for less than one row of each side.
    """
    return Voronoi(own, other)(model, x, y, lipschitz=lipschitz)


def every_cell(model, norms, relative, query, y, own, place=1):
    """Lower bounds on the distance to every row's cell, (batch, row), by its bisectors with the `own`
    rows; inf for rows of class y. The cell counts where the row is farther than up to `place` - 1 rows
    of class y, so the bound is the `place`-th largest over bisectors."""
    (bank,) = model.banks
    z, z_norms = bank[own.index], norms[own.index][..., None]
    q_norms = jnp.sum(jnp.square(query), -1)[:, None]
    to_w = q_norms + norms[None] - 2 * jnp.matmul(query, bank.T, precision=HIGHEST)
    to_w = jnp.maximum(to_w - 3 * relative * (q_norms + norms[None]), 0.0)
    apart = z_norms + norms[None, None] - 2 * jnp.einsum("qzd,rd->qzr", z, bank, precision=HIGHEST)
    apart = jnp.maximum(apart, 0.0) + 3 * relative * (z_norms + norms[None, None])
    lead = (1 - 12 * relative) * to_w[:, None] - jnp.square(own.distance)[..., None]
    bound = jnp.where((apart > 0) & jnp.isfinite(lead), lead / (2 * jnp.sqrt(apart)), 0.0)
    for _ in range(place - 1):
        rank = jnp.arange(bound.shape[1])[None, :, None]
        bound = jnp.where(rank == bound.argmax(1)[:, None], 0.0, bound)
    return jnp.where(model.labels[None] == y[:, None], jnp.inf, bound.max(1))
