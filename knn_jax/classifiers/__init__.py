"""Classifiers that decide by neighbours: what attacks and certificates are given."""

from knn_jax.classifiers.classifier import (
    Certifiable,
    Decides,
    Predicts,
    Scores,
    Surrogate,
    Votes,
    require,
)
from knn_jax.classifiers.decision import NOBODY, Decision, margin, predicted, right
from knn_jax.classifiers.embedding import BATCH, feature_metric
from knn_jax.classifiers.guides import FAR, Guides
from knn_jax.classifiers.inputs import (
    GivenImages,
    GivenLabels,
    Images,
    Labels,
    check_images,
    check_labels,
    check_top,
)
from knn_jax.classifiers.knn import KNN, References, knn, shard
from knn_jax.classifiers.network import Network, network
from knn_jax.classifiers.on_host import LARGE, OnHost, banked, large
from knn_jax.classifiers.prototypes import Prototypes, prototypes
from knn_jax.classifiers.retrieval import Held, Retrieval, retrieval

__all__ = [
    "BATCH",
    "FAR",
    "KNN",
    "LARGE",
    "NOBODY",
    "Certifiable",
    "Decides",
    "Decision",
    "GivenImages",
    "GivenLabels",
    "Guides",
    "Held",
    "Images",
    "Labels",
    "Network",
    "OnHost",
    "Predicts",
    "Prototypes",
    "References",
    "Retrieval",
    "Scores",
    "Surrogate",
    "Votes",
    "banked",
    "check_images",
    "check_labels",
    "check_top",
    "feature_metric",
    "knn",
    "large",
    "margin",
    "network",
    "predicted",
    "prototypes",
    "require",
    "retrieval",
    "right",
    "shard",
]
