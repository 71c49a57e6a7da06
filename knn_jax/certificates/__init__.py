"""Radii within which no perturbation changes the vote."""

from knn_jax.certificates.bisectors import voronoi
from knn_jax.certificates.exact import Exact, exact
from knn_jax.certificates.triangle import margin

__all__ = ["Exact", "exact", "margin", "voronoi"]
