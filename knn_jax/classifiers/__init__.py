"""Classifiers that decide by neighbours: what attacks and certificates are given."""

from knn_jax.classifiers.check import Images, Labels, check_images, check_labels, check_top
from knn_jax.classifiers.decision import NOBODY, margin, predicted, right
from knn_jax.classifiers.knn import BATCH, FAR, KNN, Guides, References, knn, shard
from knn_jax.classifiers.network import Network, network
from knn_jax.classifiers.prototypes import Prototypes, prototypes
from knn_jax.classifiers.retrieval import Held, Retrieval, retrieval

__all__ = [
    "BATCH",
    "FAR",
    "KNN",
    "NOBODY",
    "Guides",
    "Held",
    "Images",
    "Labels",
    "Network",
    "Prototypes",
    "References",
    "Retrieval",
    "check_images",
    "check_labels",
    "check_top",
    "knn",
    "margin",
    "network",
    "predicted",
    "prototypes",
    "retrieval",
    "right",
    "shard",
]
