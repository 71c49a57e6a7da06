"""A classifier that decides by the nearest of a few prototypes: 1-NN on rows that are no images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PyTree

from knn_jax import neighbors
from knn_jax.classifiers.inputs import Images, Labels
from knn_jax.classifiers.knn import KNN
from knn_jax.values import given
from knn_jax.values.given import Lists


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prototypes(KNN):
    """1-NN on prototypes, for every attack and certificate of `KNN`. Make it with `prototypes`.

    Its `images` are the samples nearest to each prototype. Attacks that start from images of other
    classes find them among all `samples`.
    """

    samples: PyTree = None  # KNN on the features of images
    given: PyTree = None  # the class that each of these is given

    def rivals(self, x: Images, y: Labels, count: int) -> Float[Array, "batch count h w c"]:
        """The samples that are given other classes and are nearest in features. (The nearest of those
        that are of other classes are given class y: no start for an attack.)"""
        return dataclasses.replace(self.samples, labels=self.given).rivals(x, y, count)

    def nearest_sample(self, x: Images, y: Labels) -> tuple[Images, Bool[Array, " batch"]]:
        """Of each image the nearest of those samples of class y that are classified as such, and
        whether there is any; without one the image itself."""
        (bank,) = self.samples.banks
        labels = jnp.where(self.given == self.samples.labels, self.given, -1)
        near = self.nearest(self.first(x), bank, 1, labels=labels, only=y).index[:, 0]
        there = near >= 0
        return jnp.where(there[:, None, None, None], self.samples.images[near], x), there


def prototypes(samples: KNN, rows: Float[Array | np.ndarray, "class *count dim"] | Lists) -> Prototypes:
    """The classifier by the nearest of these prototypes, in the features of `samples`.

    `samples` is `knn` on one tap of images of every class, `rows` are one prototype of each class or
    several; where the metric is cosine they must have length 1, as features have. Raises ValueError
    for rows of another shape, number of classes, dimensions or length, and for several taps.
    """
    if len(samples.banks) != 1:
        raise ValueError(f"prototypes lie in one tap, and the samples have {len(samples.banks)}")
    (bank,) = samples.banks
    rows = given.array("prototypes", rows)
    if rows.ndim not in (2, 3):
        raise ValueError(f"prototypes of shape {rows.shape}: (class, dim) or (class, count, dim)")
    rows = rows[:, None] if rows.ndim == 2 else rows
    classes, count, dim = np.shape(rows)
    if (classes, dim) != (samples.classes, bank.shape[1]):
        raise ValueError(
            f"prototypes of {classes} classes in {dim} dimensions, and samples of {samples.classes} in "
            f"{bank.shape[1]}"
        )
    if not isinstance(rows, Tracer) and not np.isfinite(np.asarray(rows)).all():
        raise ValueError("prototypes that are NaN or infinite: no image is near them")
    if isinstance(samples.metric, neighbors.Cosine) and not isinstance(rows, Tracer):
        length = np.linalg.norm(np.asarray(rows), axis=-1)
        if not np.allclose(length, 1, atol=1e-3):
            raise ValueError(
                f"prototypes of lengths {length.min():g} to {length.max():g}: by cosine each must be 1"
            )
    rows = jnp.asarray(rows, bank.dtype).reshape(-1, dim)
    labels = jnp.repeat(jnp.arange(classes, dtype=jnp.int32), count)
    near = samples.nearest(rows, bank, 1, labels=samples.labels, only=labels).index[:, 0]
    held = {field.name: getattr(samples, field.name) for field in dataclasses.fields(KNN)}
    held |= {"banks": (rows,), "images": samples.images[near], "labels": labels, "k": 1}
    assigned = labels[samples.nearest(bank, rows, 1).index[:, 0]]
    return Prototypes(**held, samples=samples, given=assigned)
