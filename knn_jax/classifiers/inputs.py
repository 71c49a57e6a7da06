"""Images and labels in their types, or an error."""

import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PyTree, Shaped

from knn_jax.values import given
from knn_jax.values.given import Lists, Whole

Images = Float[Array, "batch height width channel"]
Labels = Int[Array, " batch"]
GivenImages = Float[Array | np.ndarray, "batch height width channel"] | Lists
GivenLabels = Shaped[Array | np.ndarray, " batch"] | Lists
REMEDIES = {
    2: "; of rows of a table, scaled to [0, 1], give x[:, None, None, :]",
    3: "; of one image give x[None], of images without channels x[..., None]",
}
MOST = np.iinfo(np.int32).max  # classes of a classifier that does not say how many it has
ROUNDED = 1e-6  # how far from [0, 1] a pixel may be by rounding
DEPENDS = 0.01  # a change by this share of what a network gives is more than rounding


def check_images(images: PyTree) -> Float[Array, "batch height width channel"]:
    """The images as float32, clipped to [0, 1] where rounding alone left it.

    Raises ValueError unless they are NHWC, finite and in [0, 1].
    """
    images = given.array("images", images)
    if images.ndim != 4:
        what = f"images of shape {images.shape}: (batch, height, width, channel) needed"
        raise ValueError(what + REMEDIES.get(images.ndim, ""))
    if 0 in images.shape:
        raise ValueError(f"images of shape {images.shape}: give at least one")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images are {images.dtype}: give float32 in [0, 1] (bytes: divide by 255)")
    images = jnp.asarray(images, jnp.float32)
    if not isinstance(images, Tracer):
        array = np.asarray(images)  # numpy's: in a caller's jit even constants would be traced
        low, high = array.min(), array.max()
        if np.isnan(low):
            bad = np.flatnonzero(np.isnan(array).any((1, 2, 3)))
            raise ValueError(f"image {bad[0]} holds NaN: give numbers in [0, 1]")
        if not (low >= -ROUNDED and high <= 1 + ROUNDED):
            raise ValueError(f"images reach from {low!s} to {high!s}: they must be in [0, 1]")
        if low < 0 or high > 1:
            images = jnp.clip(images, 0.0, 1.0)
    return images


def check_like(images: PyTree, bank: PyTree) -> Float[Array, "batch height width channel"]:
    """As `check_images`; raises ValueError also for images not of the shape of a bank's."""
    images = check_images(images)
    if images.shape[1:] != bank.shape[1:]:
        raise ValueError(f"images of shape {images.shape[1:]}, and {bank.shape[1:]} in the bank")
    return images


def check_top(top: Whole, classes: int) -> int:
    """The number; ValueError unless there is a class that is not among the `top`."""
    top = given.whole("top", top)
    if not 1 <= top < classes:
        raise ValueError(f"top={top} of {classes} classes: it must be at least 1 and below them")
    return top


def check_classes(labelled: int, classes: int) -> None:
    """Raises ValueError where logits have fewer classes than images have labels."""
    if labelled > classes:
        raise ValueError(f"labels of {labelled} classes, and logits of {classes}")


def check_labels(labels: PyTree, count: int, classes: int | None = None) -> Int[Array, " batch"]:
    """The labels, whole numbers of any type, as int32; ValueError for a wrong number or range of them.

    Without `classes` the labels are a bank's: each class up to the largest must have a row.
    """
    labels = given.labels("labels", labels)
    if labels.shape != (count,):
        what = f"{labels.dtype} of shape {labels.shape}"
        raise ValueError(f"labels are {what}: one integer for each of the {count} images needed")
    if isinstance(labels, Tracer):
        return jnp.asarray(labels, jnp.int32)
    array = np.asarray(labels)  # before large ones wrap
    low, high = array.min(), array.max()
    most = np.iinfo(np.int32).max if classes is None else classes - 1
    if low < 0 or high > most:
        limit = "" if classes is None else f" of {classes} classes"
        raise ValueError(f"labels reach from {low} to {high}: out of range{limit}")
    if classes is None:
        found = np.unique(array)
        missing = np.flatnonzero(found != np.arange(len(found)))
        if missing.size:
            raise ValueError(f"no row of class {missing[0]} in the bank: every class needs one")
    return jnp.asarray(labels, jnp.int32)


def check_alone(function: Callable[[PyTree], PyTree], batch: PyTree, found: PyTree = None) -> None:
    """Warns where what a network gives an image depends on the others of its batch.

    `found` is what the function gives the `batch`, if that is known. It is called once more, in the
    same shapes, on the last image in every place: statistics of the batch, and numbers that are dropped
    at random, then differ by far more than rounding. Nothing is compared under a tracer, or of a single
    image.
    """
    if len(batch) == 1 or isinstance(batch, Tracer):
        return
    found = function(batch) if found is None else found
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(found)):
        return
    again = function(jnp.broadcast_to(batch[-1:], batch.shape))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(again), strict=True):
        one, other = np.asarray(one[-1], np.float64), np.asarray(other[0], np.float64)
        size = np.linalg.norm(one)
        change = np.linalg.norm(one - other)
        if change > DEPENDS * size:
            warnings.warn(
                f"what the network gives an image depends on the others of its batch: it moves by "
                f"{change:.2g}, and its length is {size:.2g}. Apply it as in evaluation, not dropping, "
                "by running statistics (train=False, use_running_average=True, deterministic=True or "
                "is_training=False)",
                stacklevel=4,
            )
            return
