"""Images that each batch of training is given besides its own."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from knn_jax import data


class References(NamedTuple):
    """Where they come from, and which a batch is given.

    split    of which they are rows
    rows     (key, the batch's row numbers) -> row numbers (group, count)
    augment  whether they are changed at random where the batch's own images are
    """

    split: data.Split
    rows: Callable[..., jax.Array]
    augment: bool


def drawn(split: data.Split, count: int) -> References:
    """`count` rows of each class, drawn anew for each batch: (class, count)."""
    order = np.argsort(split.labels, kind="stable")
    rows = np.bincount(split.labels)
    first = np.cumsum(rows) - rows
    draw = functools.partial(_drawn, count)
    return References(split, Partial(draw, *map(jnp.asarray, (order, first, rows))), True)


def looked_up(split: data.Split, table: np.ndarray) -> References:
    """The rows that a table (row of the training set, count) has for each image of the batch."""
    return References(split, Partial(_looked_up, jnp.asarray(table)), False)


def _drawn(count, order, first, rows, key, chosen):
    del chosen
    place = jax.random.randint(key, (len(rows), count), 0, rows[:, None])
    return order[first[:, None] + place]


def _looked_up(table, key, chosen):
    del key
    return table[chosen]
