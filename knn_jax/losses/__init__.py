"""Losses, one value per example."""

from knn_jax.losses.pairs import pairwise_distances, subspace_distances, unit
from knn_jax.losses.prototypes import prototype_radius, to_prototype
from knn_jax.losses.scores import cross_entropy, margin, sigmoid
from knn_jax.losses.soft import (
    adversarial_soft_neighbors,
    information,
    nearest,
    potential,
    similarity,
    soft_nearest_neighbors,
)

__all__ = [
    "adversarial_soft_neighbors",
    "cross_entropy",
    "information",
    "margin",
    "nearest",
    "pairwise_distances",
    "potential",
    "prototype_radius",
    "sigmoid",
    "similarity",
    "soft_nearest_neighbors",
    "subspace_distances",
    "to_prototype",
    "unit",
]
