"""Defenses: networks and what they are trained for, as values."""

from knn_jax.defenses.adversarial import Perturbable, adversarial
from knn_jax.defenses.ask import ASK
from knn_jax.defenses.autoencoder import VAE, Autoencoder
from knn_jax.defenses.cross_entropy import CrossEntropy
from knn_jax.defenses.defense import Defense, Trained
from knn_jax.defenses.idresnet import IdResNet
from knn_jax.defenses.lipschitz import LipschitzAutoencoder
from knn_jax.defenses.mixup import InputMixup, ManifoldMixup
from knn_jax.defenses.noisy import Noisy
from knn_jax.defenses.prototypes import Prototypes
from knn_jax.defenses.racnn import RaCNN, Retriever, TrainedRaCNN
from knn_jax.defenses.repulsive import Repulsive
from knn_jax.defenses.robust_loss import AdversarialCrossEntropy, RobustLoss, TradesLoss
from knn_jax.defenses.rotation import Rotation
from knn_jax.defenses.soft_neighbors import SoftNeighbors
from knn_jax.defenses.trades import Trades
from knn_jax.defenses.triplet import Triplet
from knn_jax.defenses.untrained import Untrained

__all__ = [
    "ASK",
    "VAE",
    "AdversarialCrossEntropy",
    "Autoencoder",
    "CrossEntropy",
    "Defense",
    "IdResNet",
    "InputMixup",
    "LipschitzAutoencoder",
    "ManifoldMixup",
    "Noisy",
    "Perturbable",
    "Prototypes",
    "RaCNN",
    "Repulsive",
    "Retriever",
    "RobustLoss",
    "Rotation",
    "SoftNeighbors",
    "Trades",
    "TradesLoss",
    "Trained",
    "TrainedRaCNN",
    "Triplet",
    "Untrained",
    "adversarial",
]
