"""The margin of distances, a certificate by the triangle inequality."""

from jaxtyping import Array, Float

from knn_jax import values
from knn_jax.certificates.certificate import Certificate
from knn_jax.certificates.order_statistics import half_margin, majority, nearest_of_each_side, radii
from knn_jax.classifiers import BATCH, Certifiable, GivenImages, GivenLabels
from knn_jax.neighbors import in_tiles
from knn_jax.values.given import Real


@values.value
class Margin(Certificate):
    """Half the margin of distances: that to the nearest row of another class less that to one of class
    y, and their order statistics for k above 1."""

    cites = "Sitawarin & Wagner 2019, arXiv:1906.09525, eq. 5"

    def bound(self, key, model, x, y, lipschitz):
        """The radius of each image, rounded down."""
        del key
        own, other = majority(model.k)

        def batch(x, y):
            near = nearest_of_each_side(model, model.first(x), y, own, other)
            return radii(near, half_margin(near, own), lipschitz)

        return {"radius": in_tiles(batch, BATCH)(x, y)}


def margin(
    model: Certifiable, x: GivenImages, y: GivenLabels, *, lipschitz: Real | None = None
) -> Float[Array, " batch"]:
    """`Margin`: half the margin m(x)/2 of distances (Sitawarin & Wagner 2019, eq. 5), in the images'
    L2.

    `lipschitz` is the L2 Lipschitz constant of the features, and need not be given of a classifier on
    the inputs themselves, `classifiers.knn(None, ...)`. 0 means that there is no radius: another class
    is as near, or features are no numbers, or their squares are none in float32. The paper's bound for
    k = 1 holds with order statistics for any k (see `order_statistics`). It is rounded down by what
    float32 can be wrong in the distances here and at the perturbed image, and by features whose
    rounding error is up to 2^-20 of the largest norm in the bank.

    Raises ValueError for features without a constant, and what else cannot be certified.
    """
    return Margin()(model, x, y, lipschitz=lipschitz)
