"""Where a classifier puts images of each class: its points in three dimensions (paper 3, figure 3)."""

import jax.numpy as jnp
import numpy as np

from knn_jax import data, figures, neighbors
from knn_jax.config import Config
from knn_jax.recipes import Defended


def check(recipe: Config, dataset: data.Dataset) -> None:
    """Raises ValueError, before any long work, for points that cannot be drawn."""
    asked, tests = recipe.analyze.points, len(dataset.test.labels)
    if not 0 <= asked <= tests:
        raise ValueError(f"analyze.points={asked}: the test set has {tests} images")
    net, three = recipe.net, recipe.classifier.layers == ("cl",) and recipe.net.dim == 3
    if asked and not (net.name.endswith("idresnet") and three):
        raise ValueError("analyze.points draws cl of idresnet with net.dim=3")


def draw(recipe: Config, defended: Defended) -> bytes:
    """A picture of the points of as many training and test images, subspace by subspace."""
    model, test = defended.model, defended.dataset.test
    count, parts = recipe.analyze.points, recipe.net.subspaces
    points = neighbors.in_tiles(model.first, 500)(jnp.asarray(test.floats(0, count)))
    kinds = {
        "training": (np.asarray(model.banks[0][:count]), np.asarray(model.labels[:count])),
        "test": (np.asarray(points), test.labels[:count]),
    }
    return figures.clusters(kinds, parts)
