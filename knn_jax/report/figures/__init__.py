"""The pictures of a report and of several side by side, as PNG bytes."""

from knn_jax.report.figures.comparison import accuracy, grid, sensitivity
from knn_jax.report.figures.confusion import confusion, errors
from knn_jax.report.figures.curves import curve, norms
from knn_jax.report.figures.images import examples, lookalikes, retrieved

__all__ = [
    "accuracy",
    "confusion",
    "curve",
    "errors",
    "examples",
    "grid",
    "lookalikes",
    "norms",
    "retrieved",
    "sensitivity",
]
