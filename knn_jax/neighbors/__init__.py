"""Exact nearest-neighbour search, whatever the metric, the size and the devices; and votes."""

from knn_jax.neighbors.metrics import Cosine, Euclidean, InnerProduct, Subspaces
from knn_jax.neighbors.nearest import Neighbors, merge, search
from knn_jax.neighbors.selection import top_k
from knn_jax.neighbors.tiles import GATHERED, in_tiles
from knn_jax.neighbors.votes import soft_votes, votes

__all__ = [
    "GATHERED",
    "Cosine",
    "Euclidean",
    "InnerProduct",
    "Neighbors",
    "Subspaces",
    "in_tiles",
    "merge",
    "search",
    "soft_votes",
    "top_k",
    "votes",
]
