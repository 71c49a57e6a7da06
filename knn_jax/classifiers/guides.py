"""Rows of its own and of other classes near an image, which attacks start from or move towards."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from knn_jax.classifiers.inputs import Images, Labels

FAR = 1e15  # features standing for the rows that a class lacks: their square is still a float32


class Guides(NamedTuple):
    """Rows of two classes near to each image: its own first, then that of another.

    features  of the rows in every tap, nearest first by the first tap
    there     which of them there are: a class may have fewer rows than asked for
    reach     the distance from the image to its k-th neighbour, in every tap
    """

    features: tuple[Float[Array, "batch 2 count _"], ...]
    there: Bool[Array, "batch 2 count"]
    reach: tuple[Float[Array, " batch"], ...]


@functools.partial(jax.jit, static_argnames="count")
def find_guides(model: PyTree, x: Images, y: Labels, count: int) -> Guides:
    """See `KNN.guides`."""
    queries = model.features(x)
    near = model.of_every_class(queries[0], model.banks[0], count)
    found = near.index >= 0
    mean = jnp.mean(jnp.square(near.distance), -1, where=found)
    own = jax.nn.one_hot(y, model.classes, dtype=bool)
    other = jnp.where(own | ~found.any(-1), jnp.inf, mean).argmin(1)
    pair = jnp.stack([y, other], 1)[..., None]
    index = jnp.take_along_axis(near.index, pair, 1)
    there = index >= 0
    rows = tuple(jnp.where(there[..., None], bank[index], FAR) for bank in model.banks)
    pairs = zip(queries, model.banks, strict=True)
    reach = tuple(model.nearest(q, bank, model.k).distance[:, -1] for q, bank in pairs)
    return lax.stop_gradient(Guides(rows, there, reach))


@functools.partial(jax.jit, static_argnames="count")
def find_rivals(model: PyTree, x: Images, y: Labels, count: int) -> Float[Array, "batch count h w c"]:
    """See `KNN.rivals`."""
    each = -(-count // 4)
    near = model.of_every_class(model.first(x), model.banks[0], each)
    own = jax.nn.one_hot(y, model.classes, dtype=bool)
    distance = jnp.where(own[..., None], jnp.inf, near.distance)
    distance, index = (leaf.reshape(len(x), -1) for leaf in (distance, near.index))
    there = jnp.isfinite(distance).sum(1, keepdims=True)  # with fewer than asked they are repeated
    place = jnp.arange(count)[None] % jnp.maximum(there, 1)
    index = jnp.take_along_axis(index, jnp.argsort(distance, 1), 1)
    images = model.images[jnp.take_along_axis(index, place, 1)]
    return jnp.where(there.reshape(-1, 1, 1, 1, 1) > 0, images, x[:, None])
