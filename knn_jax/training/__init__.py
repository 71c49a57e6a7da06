"""Training of a network for an objective: resumable, with adversaries and early stopping."""

from knn_jax.training.adversary import Adversary
from knn_jax.training.objective import Batch, Objective, References, by_output
from knn_jax.training.optim import Optim
from knn_jax.training.references import ReferenceRows
from knn_jax.training.train import check, train

__all__ = [
    "Adversary",
    "Batch",
    "Objective",
    "Optim",
    "ReferenceRows",
    "References",
    "by_output",
    "check",
    "train",
]
