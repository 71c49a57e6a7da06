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
    if count < 2 or any(map(_placed, jax.tree.leaves((others, batch)))):
        return program(static, others, *batch)
    # By its hash alone, so that no model is kept.
    seen = _seen(hash((program, static, *_shapes(others), *_shapes(batch, 1))))
    size = min((size for size in seen.copy() if count <= size <= 2 * count), default=count)

    def pad(leaf):
        more = np.broadcast_to(np.asarray(leaf)[:1], (size - count, *leaf.shape[1:]))
        return _like(leaf, np.concatenate([leaf, more]))

    def cut(leaf):
        if not leaf.ndim or isinstance(leaf, Tracer):
            return leaf[:count] if leaf.ndim else leaf
        return _like(leaf, np.asarray(leaf)[:count])

    if size > count:
        return jax.tree.map(cut, program(static, others, *jax.tree.map(pad, batch)))
    found = program(static, others, *batch)
    seen.add(size)  # and not one that failed
    return found


@functools.lru_cache(maxsize=PROGRAMS)
def _seen(key: int) -> set[int]:
    """The sizes of batches that a program was called with."""
    del key
    return set()


def _like(leaf, numbers):
    """The numbers where an array is: on its device, if it is bound to one."""
    bound = isinstance(leaf, jax.Array) and getattr(leaf, "committed", True)
    return jax.device_put(numbers, leaf.sharding if bound else None)


def _placed(leaf):
    """Whether an array is traced, or over several devices."""
    return isinstance(leaf, Tracer) or (isinstance(leaf, jax.Array) and len(leaf.devices()) > 1)


def _shapes(tree, first=0):
    """What a program depends on: the structure, and of arrays the axes from `first` on and the type."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, *((np.shape(leaf)[first:], getattr(leaf, "dtype", type(leaf))) for leaf in leaves)
