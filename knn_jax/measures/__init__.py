"""What a representation and its votes say: local dimension, Jacobian norm, credibility, points."""

from knn_jax.measures.credibility import (
    Calibration,
    ConformalPrediction,
    Credibility,
    calibrate,
    credibility,
    nonconformity,
)
from knn_jax.measures.jacobian_norm import JacobianNorm, jacobian_norm
from knn_jax.measures.local_dimension import LocalDimension, lid
from knn_jax.measures.measure import Context, Measure, Measured, join
from knn_jax.measures.points import Points

__all__ = [
    "Calibration",
    "ConformalPrediction",
    "Context",
    "Credibility",
    "JacobianNorm",
    "LocalDimension",
    "Measure",
    "Measured",
    "Points",
    "calibrate",
    "credibility",
    "jacobian_norm",
    "join",
    "lid",
    "nonconformity",
]
