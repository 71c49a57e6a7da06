"""A bank's images in the host's memory or in its file, of which a program reads those that it names."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from knn_jax.mesh.sharding import Rows
from knn_jax.values import given

LARGE = 2**31  # bytes as float32 from which on `banked` leaves images on the host


@jax.tree_util.register_static
class OnHost:
    """Images (row, height, width, channel), kept as they are and read as float32 in [0, 1].

    It is indexed as an array is, by a slice or row numbers; inside `jit` by row numbers only, which a
    callback to the host answers. Programs hold none of the images, and JAX keeps no program that calls
    back on disk. Two of them are never equal: programs are compiled for each anew, and keep it.
    """

    def __init__(self, images: Rows):
        self.images = images
        self.shape = images.shape
        self.ndim = len(self.shape)
        self.dtype = jnp.dtype(jnp.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(
        self, which: slice | Int[Array | np.ndarray, "*some"]
    ) -> Float[Array, "*some height width channel"]:
        if not isinstance(which, Tracer):
            return jnp.asarray(self._read(which if isinstance(which, slice) else np.asarray(which)))
        shape = jax.ShapeDtypeStruct((*which.shape, *self.shape[1:]), self.dtype)
        return jax.pure_callback(self._read, shape, which, vmap_method="broadcast_all")

    def _read(self, which):
        if isinstance(which, slice):
            return given.floats(self.images[which])
        rows = np.asarray(which)
        found = given.floats(self.images[rows.reshape(-1)])
        return found.reshape(*rows.shape, *found.shape[1:])


def banked(images: Rows) -> Array | OnHost:
    """Images for a bank: on the device as float32, or on the host where they are large."""
    held = OnHost(images)
    return held if large(held.shape) else held[:]


def large(shape: tuple[int, ...]) -> bool:
    """Whether images of this shape are kept on the host."""
    return 4 * math.prod(shape) >= LARGE
