"""The pictures of a report and of several side by side, as PNG bytes."""

from knn_jax.figures.comparison import accuracy, grid, sensitivity
from knn_jax.figures.confusion import confusion, errors
from knn_jax.figures.curves import clusters, credibility, curve, norms
from knn_jax.figures.images import examples, lookalikes, retrieved

__all__ = [
    "accuracy",
    "clusters",
    "confusion",
    "credibility",
    "curve",
    "errors",
    "examples",
    "grid",
    "lookalikes",
    "norms",
    "retrieved",
    "sensitivity",
]
