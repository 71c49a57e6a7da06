"""Exact nearest-neighbour search, whatever the metric, the size and the devices; and votes."""

from knn_jax.neighbors.answer import Neighbors, merge
from knn_jax.neighbors.estimate import Estimate, estimate
from knn_jax.neighbors.metrics import Cosine, Euclidean, InnerProduct, Subspaces, rounding
from knn_jax.neighbors.nearest import search
from knn_jax.neighbors.selection import top_k
from knn_jax.neighbors.sharded import Sharded, shard
from knn_jax.neighbors.stream import stream
from knn_jax.neighbors.tiles import in_tiles
from knn_jax.neighbors.votes import nearness, ranks, soft_votes, votes

__all__ = [
    "Cosine",
    "Estimate",
    "Euclidean",
    "InnerProduct",
    "Neighbors",
    "Sharded",
    "Subspaces",
    "estimate",
    "in_tiles",
    "merge",
    "nearness",
    "ranks",
    "rounding",
    "search",
    "shard",
    "soft_votes",
    "stream",
    "top_k",
    "votes",
]
