"""Attacks on classifiers that decide by neighbours: retrieval and vote are inside the gradient."""

from knn_jax.attacks.minimal import minimum_norm
from knn_jax.attacks.outcome import Found
from knn_jax.attacks.projected import pgd

__all__ = ["Found", "minimum_norm", "pgd"]
