"""What a search returns, and how answers from parts of a bank become one."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from knn_jax.neighbors import float_order
from knn_jax.values import given
from knn_jax.values.given import Whole


class Neighbors(NamedTuple):
    """Nearest rows in order of distance.

    Of one query given as a vector there is no axis of queries. Where a query has fewer than k eligible
    rows the rest has distance inf and index -1.
    """

    distance: Float[Array, "*query_group k"]
    index: Int[Array, "*query_group k"]  # pyright: ignore[reportIncompatibleMethodOverride]


def merge(one: Neighbors, other: Neighbors, k: Whole) -> Neighbors:
    """The k nearest of two answers for the same queries, from different rows of a bank.

    At equal distances the lower index comes first, so pieces in any order make the same whole.
    """
    both = Neighbors(*(jnp.concatenate(pair, -1) for pair in zip(one, other, strict=True)))
    return ordered(both, given.whole("k", k))


def ordered(near: Neighbors, k: int) -> Neighbors:
    """The k nearest of neighbours in any order."""
    last = jnp.where(near.index < 0, jnp.iinfo(jnp.int32).max, near.index)
    distance, index = float_order.in_order(near.distance, last)
    distance, index = distance[..., :k], index[..., :k]
    return Neighbors(distance, jnp.where(distance == jnp.inf, -1, index))
