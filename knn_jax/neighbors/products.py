"""Inner products, squares and lengths, as exact as the type allows: what metrics are computed with."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from knn_jax.neighbors import float_order
from knn_jax.neighbors.precision import BLOCK, finfo


def product(query, rows, mode: str, centre=None, scale=None):
    """(query, row) inner products with rows * scale - centre, as exact as the type is unless coarse."""
    if mode == "bfloat16":
        query, rows = query.astype(jnp.bfloat16), shifted(rows, centre, scale).astype(jnp.bfloat16)
        return jnp.matmul(query, rows.T, preferred_element_type=jnp.float32)
    # DEFAULT is TF32 on a GPU.
    precision = lax.Precision.DEFAULT if mode == "tensorfloat32" else lax.Precision.HIGHEST

    def product(query, rows, centre):
        return jnp.matmul(query, shifted(rows, centre, scale).T, precision=precision)

    return (_by_blocks(product) if mode == "centred" else product)(query, rows, centre)


def squares(x, centre=None, scale=None):
    """|x * scale - centre|^2."""
    return _by_blocks(lambda x, m: jnp.sum(jnp.square(shifted(x, m, scale)), -1))(x, centre)


def shifted(rows, centre, scale):
    """rows * scale - centre, where these are given."""
    rows = rows if scale is None else rows * scale[:, None]
    return rows if centre is None else rows - centre


def root(squared):
    """The square root, of gradient zero at zero."""
    apart = ~(squared <= 0)  # NaN stays NaN
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)


def length(function, *arrays):
    """|function(*arrays)|, (..., 1), of numbers whose squares may be no numbers.

    By powers of two, which round nothing. The numbers are made twice, never to be held.
    """
    largest = jnp.max(jnp.abs(lax.stop_gradient(function(*arrays))), -1, keepdims=True)
    # At least so large that its inverse is a number too.
    scale = float_order.power_of_two(jnp.maximum(largest / 4, finfo(largest).tiny))
    # One barrier each: jax 0.11 cannot transpose one of several where not all have a tangent.
    numbers = function(*map(lax.optimization_barrier, arrays))
    return scale * root(jnp.sum(jnp.square(numbers / scale), -1, keepdims=True))


def norm(x):
    """|x|, (..., 1)."""
    return length(lambda x: x, x)


def direction(x):
    """x / |x|; zeros stay zeros."""
    size = norm(x)
    return x / jnp.where(size > 0, size, 1.0)


def _by_blocks(function: Callable) -> Callable:
    """The sum of a function of blocks of the last axis, one after another."""

    def summed(*arrays):
        dim = arrays[0].shape[-1]
        first = (dim - 1) % BLOCK + 1

        def part(start, size):
            block = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, size, -1), arrays)
            return function(*block)

        def add(number, total):
            return total + part(first + number * BLOCK, BLOCK)

        blocks = (dim - first) // BLOCK
        return lax.fori_loop(0, blocks, add, part(0, first)) if blocks else part(0, dim)

    return summed
