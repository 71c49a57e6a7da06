"""What a search returns, and how answers from parts of a bank become one."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from knn_jax.neighbors import float_order


class Neighbors(NamedTuple):
    """Nearest rows in order of distance.

    Where a query has fewer than k eligible rows the rest has distance inf and index -1.
    """

    distance: Float[Array, "query *group k"]
    index: Int[Array, "query *group k"]  # pyright: ignore[reportIncompatibleMethodOverride]


def merge(one: Neighbors, other: Neighbors, k: int) -> Neighbors:
    """The k nearest of two answers for the same queries, from different rows of a bank.

    At equal distances the lower index comes first, so pieces in any order make the same whole.
    """
    return ordered(Neighbors(*(jnp.concatenate(pair, -1) for pair in zip(one, other, strict=True))), k)


def ordered(near: Neighbors, k: int) -> Neighbors:
    """The k nearest of neighbours in any order."""
    last = jnp.where(near.index < 0, jnp.iinfo(jnp.int32).max, near.index)
    distance, index = float_order.in_order(near.distance, last)
    distance, index = distance[..., :k], index[..., :k]
    return Neighbors(distance, jnp.where(distance == jnp.inf, -1, index))
