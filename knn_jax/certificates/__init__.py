"""Radii within which no perturbation changes the vote."""

from knn_jax.certificates.bisectors import voronoi
from knn_jax.certificates.exact import Exact, exact
from knn_jax.certificates.smoothing import (
    ABSTAIN,
    Smoothed,
    certified,
    check_smoothing,
    sampled,
    smoothing,
)
from knn_jax.certificates.triangle import margin

__all__ = [
    "ABSTAIN",
    "Exact",
    "Smoothed",
    "certified",
    "check_smoothing",
    "exact",
    "margin",
    "sampled",
    "smoothing",
    "voronoi",
]
