"""What neighbours vote for, as counts and differentiably."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Num

from knn_jax.values import given
from knn_jax.values.given import Lists, Whole

ABSENT = 1e6  # of rows that a class has none of, in units of the k-th squared distance
LACKED = 1.0  # how far behind its last row those stand that a class lacks, in the same units


def votes(
    labels: Num[Array | np.ndarray, "*query k"] | Lists, classes: Whole
) -> Int[Array, "*query class"]:
    """How many neighbours are of each class; one of a class below 0 votes for nobody."""
    labels, classes = given.labels("labels", labels), given.whole("classes", classes)
    return jax.nn.one_hot(labels, classes, dtype=jnp.int32).sum(-2)


def soft_votes(
    squared: Float[Array, "query class count"], k: Whole, temperature: float | Float[Array, ""]
) -> Float[Array, "query class"]:
    """Votes differentiable in the squared distances to each class's nearest rows.

    A row votes the sigmoid of its `nearness`. At temperature 0 the k nearest vote 1 and the rest 0, so
    these are the hard votes.
    """
    flat = nearness(squared.reshape(squared.shape[0], -1), k, temperature)
    # The sigmoid, but its slope is lost where it rounds to 1: JAX's is sigmoid (1 - sigmoid).
    return jnp.exp(jax.nn.log_sigmoid(flat)).reshape(squared.shape).sum(-1)


def nearness(
    squared: Float[Array, "query row"], k: Whole, temperature: float | Float[Array, ""]
) -> Float[Array, "query row"]:
    """(r - d^2) / (r temperature) of each row: above 0 for the k nearest.

    r is halfway between the k-th and the next squared distance and held constant.
    """
    k = given.whole("k", k)
    ordered = lax.stop_gradient(jnp.sort(squared, -1))
    kth = ordered[:, k - 1]
    beyond = ordered[:, k] if ordered.shape[1] > k else 3 * kth
    r = ((kth + beyond) / 2)[:, None]
    return (r - squared) / jnp.maximum(r * temperature, jnp.finfo(squared.dtype).tiny)


def ranks(
    squared: Sequence[Float[Array, "query class count"]],
    y: Int[Array, " query"],
    k: Whole,
    temperature: float | Float[Array, ""],
) -> Float[Array, "query class"]:
    """How close each class is to taking the vote from class y, over all layers; 0 for y itself.

    `squared` holds, for each layer, the squared distances to the nearest rows of every class, of which
    k vote. A class takes the j-th vote of a layer from y if its j-th row is nearer than the row of y
    that this displaces, which is the j-th from the end of the k. It needs half of all votes, in
    whichever layers their gaps are smallest, and if the number of votes is odd, the last may go to any
    other class. It misses by the largest gap among these votes, in units of the k-th squared distance
    of the layer. So its score is above that of y where the hard vote is lost: exactly there
    for two classes, and for k up to 3 in one layer; otherwise rows of third classes may stand between.
    Rows that a class lacks for half of the votes are put behind its last, because fewer may do. All
    that holds at temperature 0; above it the gaps are combined by a softmax.

    These are the regions of Yang et al. 2020, "Robustness for non-parametric classification", who solve
    for a few of them; here they are those nearest to the image as it is. Soft votes saturate where
    ranks do not: for 5-NN on pixels of MNIST `minimum_norm` by soft votes finds norms larger by
    10%, and on trained layers by up to 4%.
    """
    k = given.whole("k", k)
    needed = -(-len(squared) * k // 2)
    taps = [_ordered(rows, y, k) for rows in squared]
    gaps = jnp.sort(jnp.concatenate([gap for _, _, gap in taps], -1), -1)[..., :needed]
    if len(squared) * k % 2:
        last = gaps[..., -1]
        others = [_of_another(*tap, last, y) for tap in taps]
        gaps = gaps.at[..., -1].set(functools.reduce(jnp.minimum, others, last))
    softly = jnp.maximum(temperature, 1e-6)
    miss = softly * jax.nn.logsumexp(gaps / softly, -1)
    return -jnp.where(jax.nn.one_hot(y, miss.shape[1], dtype=bool), 0.0, miss)


def _ordered(squared, y, k):
    """Each class's rows from the nearest on, the rows of y that they displace, and what is between."""
    batch, classes, count = squared.shape
    kth = lax.stop_gradient(jnp.sort(squared.reshape(batch, -1), -1)[:, min(k, classes * count) - 1])
    unit = jnp.where(kth > 0, kth, 1.0)[:, None, None]
    rows = jnp.minimum(jnp.sort(squared, -1) / unit, ABSENT)[..., :k]
    rows = jnp.pad(rows, ((0, 0), (0, 0), (0, k - rows.shape[-1])), constant_values=ABSENT)
    own = jnp.take_along_axis(rows, y[:, None, None], 1)
    displaced = jnp.broadcast_to(own[..., ::-1], rows.shape)
    # Rows that a class lacks stand behind its last, for a constant in their place has no slope.
    there = rows < ABSENT
    last = jnp.max(rows, -1, keepdims=True, where=there, initial=-jnp.inf)
    rows = jnp.where(there | ~there.any(-1, keepdims=True), rows, last + LACKED)
    return rows, displaced, rows - displaced


def _of_another(rows, displaced, gap, last, y):
    """The gap that a third class's row leaves after the class's own whose gaps are below the `last`."""
    taken = jnp.sum(gap < last[..., None], -1, keepdims=True)
    before = jnp.take_along_axis(rows, jnp.maximum(taken - 1, 0), -1)
    before = jnp.where(taken > 0, before, 0.0)[..., 0]  # the rows of the class that are nearer still
    left = jnp.take_along_axis(displaced, jnp.minimum(taken, rows.shape[-1] - 1), -1)[..., 0]
    classes = rows.shape[1]
    nearest = jnp.where(jax.nn.one_hot(y, classes, dtype=bool), ABSENT, rows[..., 0])[:, None]
    other = jnp.where(jnp.eye(classes, dtype=bool)[None], ABSENT, nearest).min(-1)
    return jnp.maximum(before, other) - left
