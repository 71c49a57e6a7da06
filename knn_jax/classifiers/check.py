"""Images and labels in their types, or an error."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

Images = Float[Array, "batch height width channel"]
Labels = Int[Array, " batch"]
DEPENDS = 0.01  # a change by this share of what a network gives is more than rounding


def check_images(images: Any) -> Float[Array, "batch height width channel"]:
    """The images as float32; raises ValueError unless they are NHWC, finite and in [0, 1]."""
    if np.ndim(images) != 4:
        raise ValueError(f"images of shape {np.shape(images)}: (batch, height, width, channel) needed")
    if 0 in np.shape(images):
        raise ValueError(f"images of shape {np.shape(images)}: give at least one")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images are {images.dtype}: give float32 in [0, 1] (bytes: divide by 255)")
    images = jnp.asarray(images, jnp.float32)
    if not isinstance(images, Tracer):
        array = np.asarray(images)  # numpy's: in a caller's jit even constants would be traced
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):  # also when they are NaN
            raise ValueError(f"images reach from {low:g} to {high:g}: they must be in [0, 1]")
    return images


def check_like(images: Any, bank: Any) -> Float[Array, "batch height width channel"]:
    """As `check_images`; raises ValueError also for images not of the shape of a bank's."""
    images = check_images(images)
    if images.shape[1:] != bank.shape[1:]:
        raise ValueError(f"images of shape {images.shape[1:]}, and {bank.shape[1:]} in the bank")
    return images


def check_top(top: int, classes: int) -> None:
    """Raises ValueError unless there is a class that is not among the `top`."""
    if not 1 <= top < classes:
        raise ValueError(f"top={top} of {classes} classes: it must be at least 1 and below them")


def check_labels(labels: Any, count: int, classes: int | None = None) -> Int[Array, " batch"]:
    """The labels as int32; raises ValueError for a wrong number, type or range of them.

    Without `classes` the labels are a bank's: each class up to the largest must have a row.
    """
    if np.shape(labels) != (count,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        what = f"{labels.dtype} of shape {np.shape(labels)}"
        raise ValueError(f"labels are {what}: one integer for each of the {count} images needed")
    labels = jnp.asarray(labels, jnp.int32)
    if isinstance(labels, Tracer):
        return labels
    array = np.asarray(labels)
    low, high = array.min(), array.max()
    if low < 0 or (classes is not None and high >= classes):
        limit = "" if classes is None else f" of {classes} classes"
        raise ValueError(f"labels reach from {low} to {high}: out of range{limit}")
    if classes is None:
        missing = np.setdiff1d(np.arange(high + 1), array)
        if missing.size:
            raise ValueError(f"no row of class {missing[0]} in the bank: every class needs one")
    return labels


def check_alone(function: Callable[[Any], Any], batch: Any, found: Any = None) -> None:
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
