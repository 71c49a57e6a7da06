"""The loss that the ASK attack ascends: the references of images, and the layers' losses over them."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from knn_jax import losses
from knn_jax.attacks import batches
from knn_jax.classifiers import FAR, References, Votes
from knn_jax.neighbors import in_tiles

OWN = 2**31 - 1  # folded into keys that draw rows: no restart has this number


def retrieve(keys, source, z, y, own, others, targeted=False, drawn=False):
    """The references of images in every layer, and which of them count."""
    rows = source.references(z, max(own, others))
    mine = jnp.arange(source.classes)[None] == y[:, None]
    if drawn:
        random = drawn_rows(keys, source, max(own, others))
        pairs = zip(rows, random, strict=True)
        rows = tuple(jnp.where(mine[..., None, None], near, far) for near, far in pairs)
    there = jnp.arange(max(own, others))[None, None] < jnp.where(mine, own, others)[..., None]
    there &= jnp.abs(rows[0][..., 0]) < FAR  # a class may have fewer rows
    if targeted:
        there &= (mine | nearest_class(source, z, rows, there, mine))[..., None]
    return rows, there


def loss(source, z, y, retrieved, temperatures, weights, metric):
    """The weighted sum of the layers' ASK losses."""
    references, there = retrieved
    total = jnp.zeros(len(z), z.dtype)
    layers = zip(source.features(z), references, temperatures, weights, strict=True)
    for query, rows, temperature, weight in layers:
        alike = losses.similarity(query, rows, metric) / temperature
        total += weight * losses.adversarial_soft_neighbors(alike, y, there, "mean")
    return total


@functools.partial(jax.jit, static_argnames="metric")
def information(model, x, y, image, temperatures, weights, metric):
    """log(classes - 1) less the loss at `image`, over the k references of x in every class."""

    def batch(x, y, image):
        retrieved = retrieve(None, model, x, y, model.k, model.k)
        each = loss(model, image, y, retrieved, temperatures, weights, metric)
        return losses.information(each, model.classes)

    return in_tiles(batch, batches.batch_size(model, x, model.k))(x, y, image)


def nearest_class(source, z, references, there, mine):
    """Which class but one's own has the rows of least mean distance, summed over layers."""
    squared = source.squared_distances(z, references)
    distance = sum(jnp.mean(jnp.sqrt(d), -1, where=there) for d in squared)
    nearest = jnp.where(mine | ~there.any(-1), jnp.inf, distance).argmin(1)
    return jnp.arange(source.classes)[None] == nearest[:, None]


def drawn_rows(keys: Array, source: Votes, count: int) -> References:
    """The features of rows of every class drawn for each example, with replacement."""
    order = jnp.argsort(source.labels)
    first = jnp.searchsorted(source.labels[order], jnp.arange(source.classes))
    rows = jnp.bincount(source.labels, length=source.classes)

    def each(key: Array) -> Int[Array, "class count"]:
        share = jax.random.uniform(jax.random.fold_in(key, OWN), (source.classes, count))
        place = (share * rows[:, None].astype(share.dtype)).astype(jnp.int32)
        return order[first[:, None] + jnp.minimum(place, rows[:, None] - 1)]

    index = jax.vmap(each)(keys)
    return tuple(bank[index] for bank in source.banks)
