"""Batches of a size that has a program already: the last batch of a loader compiles nothing.

A program is compiled for the shapes that it is given. A batch smaller than one seen before, with all
other shapes the same, is padded to the size of that one if it is at most twice as large. The largest
batch of a loop, which comes first, is never padded, nor is a batch of one.
"""

import functools
from collections.abc import Callable, Hashable

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

PROGRAMS = 1024  # of so many the sizes are remembered


def padded(program: Callable[..., PyTree], static: Hashable, others: PyTree, *batch: PyTree) -> PyTree:
    """`program(static, others, *batch)`, whose outputs have no axes or an entry for each example.

    Inside a caller's program, and with a batch over several devices, it is called as it is. The answer
    to a batch that is padded is waited for.
    """
    count = len(jax.tree.leaves(batch)[0])
    size = count
    if count > 1 and not any(map(_placed, jax.tree.leaves((others, batch)))):
        size = _size(_seen((program, static, *_shapes(others), *_shapes(batch, 1))), count)
    if size == count:
        return program(static, others, *batch)

    def pad(leaf):
        leaf = np.asarray(leaf)
        more = np.broadcast_to(leaf[:1], (size - count, *leaf.shape[1:]))
        return jax.device_put(np.concatenate([leaf, more]))

    def cut(leaf):
        return jax.device_put(np.asarray(leaf)[:count]) if leaf.ndim else leaf

    return jax.tree.map(cut, program(static, others, *jax.tree.map(pad, batch)))


@functools.lru_cache(maxsize=PROGRAMS)
def _seen(key: Hashable) -> set[int]:
    """The sizes of batches that a program was called with."""
    del key
    return set()


def _size(seen, count):
    fitting = [size for size in seen if count <= size <= 2 * count]
    seen.add(size := min(fitting, default=count))
    return size


def _placed(leaf):
    """Whether an array is traced, or over several devices."""
    return isinstance(leaf, Tracer) or (isinstance(leaf, jax.Array) and len(leaf.devices()) > 1)


def _shapes(tree, first=0):
    """What a program depends on: the structure, and of arrays the axes from `first` on and the type."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, *((np.shape(leaf)[first:], getattr(leaf, "dtype", type(leaf))) for leaf in leaves)
