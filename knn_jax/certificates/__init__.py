"""Radii within which no perturbation changes the decision."""

from knn_jax.certificates.certificate import Certificate, Plan
from knn_jax.certificates.exact import Exact, ExactRadius, exact
from knn_jax.certificates.margin import Margin, margin
from knn_jax.certificates.smoothing import ABSTAIN, SmoothedDecision, Smoothing, smoothing
from knn_jax.certificates.voronoi import Voronoi, voronoi
from knn_jax.certificates.voronoi_linf import VoronoiLinf, voronoi_linf

__all__ = [
    "ABSTAIN",
    "Certificate",
    "Exact",
    "ExactRadius",
    "Margin",
    "Plan",
    "SmoothedDecision",
    "Smoothing",
    "Voronoi",
    "VoronoiLinf",
    "exact",
    "margin",
    "smoothing",
    "voronoi",
    "voronoi_linf",
]
