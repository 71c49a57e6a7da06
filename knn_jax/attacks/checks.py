"""What input attacks refuse: images and labels that a classifier cannot have, sizes no pixel has."""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from knn_jax import classifiers, neighbors, values
from knn_jax.classifiers import Images, Labels, Votes


def check(model: object, x: PyTree, y: PyTree) -> tuple[Images, Labels]:
    """The images and labels in their types; raises ValueError if they are none for this model.

    A model need not say its number of `classes`; labels are then refused only below 0.
    """
    x = classifiers.check_images(x)
    return x, classifiers.check_labels(y, len(x), getattr(model, "classes", jnp.iinfo(jnp.int32).max))


def one_device(model: Votes, who: str) -> None:
    """Raises ValueError for a classifier whose bank lies over several devices."""
    if any(isinstance(bank, neighbors.Sharded) for bank in model.banks):
        raise ValueError(f"the bank is over several devices and {who} goes over all of it: give knn's")


def in_box(**sizes: object) -> None:
    """Raises ValueError for a change of pixels that none in [0, 1] can have."""
    values.at_least(0, **sizes)
    for name, size in sizes.items():
        if not isinstance(size, Tracer) and np.asarray(size) > 1:
            remedy = f", of 255 levels {size:g}/255" if np.asarray(size) <= 255 else ""
            raise ValueError(f"{name}={size}: pixels are in [0, 1], so give at most 1{remedy}")
