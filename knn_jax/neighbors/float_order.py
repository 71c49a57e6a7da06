"""Floating-point numbers as integers in the same order: what is bisected and what sorts fast.

XLA's CPU backend sorts integers some six times as fast as floating-point numbers or pairs. Bits of
float64 are not asked for: XLA cannot compile what computes with them for a TPU.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def integers(numbers):
    """Integers of 32 bits in the order of float32 (-0 just below 0)."""
    return _turned(lax.bitcast_convert_type(numbers, jnp.int32))


def numbers(integers):
    """The numbers of such integers."""
    return lax.bitcast_convert_type(_turned(integers), jnp.float32)


def power_of_two(numbers):
    """About each number, which must be positive: exactly in float32, in float64 but for rounding."""
    if numbers.dtype == jnp.float32:
        return lax.reduce_precision(numbers, exponent_bits=8, mantissa_bits=0)
    return jnp.exp2(jnp.round(jnp.log2(numbers)))


def _turned(bits):
    return jnp.where(bits < 0, bits ^ jnp.iinfo(bits.dtype).max, bits)


@jax.custom_jvp
def in_order(values, index):
    """Values and their indices (from 0) ascending along the last axis, by index among equals."""
    values = jnp.where(values == 0, 0.0, values)  # -0 and 0 are equal
    if values.dtype != jnp.float32:
        return tuple(lax.sort((values, index), num_keys=2))
    with jax.enable_x64(True):  # both in one integer
        both = lax.sort((integers(values).astype(jnp.int64) << 32) + index.astype(jnp.int64))
        return numbers((both >> 32).astype(jnp.int32)), both.astype(jnp.int32)


@in_order.defjvp
def _in_order_jvp(primals, tangents):
    where = lax.broadcasted_iota(jnp.int32, primals[0].shape, primals[0].ndim - 1)
    *out, order = lax.sort((*primals, where), num_keys=2)
    none = np.zeros(out[1].shape, jax.dtypes.float0)
    return tuple(out), (jnp.take_along_axis(tangents[0], order, -1), none)
