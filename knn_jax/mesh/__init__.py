"""Devices and processes: which devices hold what, and how processes that share them agree."""

from knn_jax.mesh.processes import (
    Refused,
    agree,
    alone,
    by_first,
    divided,
    first,
    join,
    launched,
    of_first,
    together,
    told,
)
from knn_jax.mesh.sharding import QUERIES, ROWS, batch, make, placed, taken, whole

__all__ = [
    "QUERIES",
    "ROWS",
    "Refused",
    "agree",
    "alone",
    "batch",
    "by_first",
    "divided",
    "first",
    "join",
    "launched",
    "make",
    "of_first",
    "placed",
    "taken",
    "together",
    "told",
    "whole",
]
