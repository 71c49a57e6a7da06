"""Where a classifier puts images of each class: a picture of its points in three dimensions."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from knn_jax import neighbors, values
from knn_jax.display import canvas
from knn_jax.measures.measure import Measure, Measured

BATCH = 500  # images whose features are computed together
Points3 = tuple[Float[np.ndarray, "image dim"], Int[np.ndarray, " image"]]


@values.value
class Points(Measure):
    """Points of training and test images in each subspace of three dimensions, drawn."""

    images: int
    """Training images, and as many test images, whose points are drawn."""

    cites = "Qian, An & Su, K-NN with Identity Initialized ResNet, figure 3"

    def __post_init__(self):
        values.at_least(1, images=self.images)

    def check_layer(self, layer, dim, metric):
        """It is taken of subspaces of three dimensions."""
        parts = _subspaces(metric)
        if dim != 3 * parts:
            raise ValueError(
                f"Points draws subspaces of 3 dimensions, and {layer} has {parts} in {dim}"
            )

    def run(self, context):
        """The picture. Raises ValueError unless the first layer is of subspaces of three dimensions."""
        model, test = context.model, context.dataset.test
        self.check_layer(context.layer, model.banks[0].shape[1], model.metric)
        parts = _subspaces(model.metric)
        first = neighbors.in_tiles(lambda x: model.features(x)[0], BATCH)
        points = first(jnp.asarray(test.floats(0, self.images)))
        rows = model.banks[0][: self.images], model.labels[: self.images]
        kinds = {
            "training": (np.asarray(rows[0]), np.asarray(rows[1])),
            "test": (np.asarray(points), test.labels[: self.images]),
        }
        return Measured({}, {}, {"clusters.png": draw(kinds, parts)})


def _subspaces(metric: neighbors.Metric) -> int:
    return metric.count if isinstance(metric, neighbors.Subspaces) else 1


def draw(kinds: Mapping[str, Points3], parts: int) -> bytes:
    """For each kind of image (points, labels) a row of pictures, one of each 3-dimensional part."""
    size = 3 * parts, 3 * len(kinds)
    figure, places = canvas.axes(len(kinds), parts, size, projection="3d")
    for row, (name, (points, labels)) in zip(places, kinds.items(), strict=True):
        for i, (axis, part) in enumerate(zip(row, np.split(points, parts, 1), strict=True), 1):
            axis.scatter(*part.T, c=labels, cmap="tab10", s=2)
            axis.set_title(f"{name} images, subspace {i}", fontsize=8)
            axis.tick_params(labelsize=6)
    return canvas.png(figure)
