"""Images that each batch of training is given besides its own."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Int

from knn_jax import data


class ReferenceRows(NamedTuple):
    """Where the references of a batch come from, and which they are.

    of       () -> images (row, height, width, channel), of which they are rows, or features of these
    labels   of these, (row,)
    rows     (key, the batch's row numbers) -> row numbers (group, count)
    augment  whether they are changed at random where the batch's own images are
    """

    of: Callable[[], np.ndarray]
    labels: np.ndarray
    rows: Callable[..., jax.Array]
    augment: bool


def of_each_class(split: data.Split, count: int) -> ReferenceRows:
    """`count` rows of each class, drawn anew for each batch: (class, count)."""
    order = np.argsort(split.labels, kind="stable")
    rows = np.bincount(split.labels)
    first = np.cumsum(rows) - rows
    draw = functools.partial(_drawn, count)
    chosen = Partial(draw, *map(jnp.asarray, (order, first, rows)))
    return ReferenceRows(lambda: split.images[:], split.labels, chosen, True)


def from_table(
    of: Callable[[], np.ndarray], labels: Int[np.ndarray, " row"], table: Int[np.ndarray, "image count"]
) -> ReferenceRows:
    """The rows that a table has for each image of the batch, which is one of the training set."""
    return ReferenceRows(of, labels, Partial(_looked_up, jnp.asarray(table)), False)


def _drawn(count, order, first, rows, key, chosen):
    del chosen
    place = jax.random.randint(key, (len(rows), count), 0, rows[:, None])
    return order[first[:, None] + place]


def _looked_up(table, key, chosen):
    del key
    return table[chosen]
