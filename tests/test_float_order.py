"""Integers in the order of numbers, and the sort made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knn_jax.neighbors import float_order

NUMBERS = [-np.inf, -1e30, -1.0, -1e-37, -0.0, 0.0, 1e-37, 2.0, 2.0000002, 1e30, np.inf]


def test_integers_are_in_the_order_of_the_numbers():
    numbers = jnp.asarray(NUMBERS, jnp.float32)
    integers = float_order.integers(numbers)
    assert integers.dtype == jnp.int32
    assert (np.diff(np.asarray(integers).astype(np.int64)) > 0).all()


def test_numbers_come_back_bit_for_bit():
    numbers = jnp.asarray(NUMBERS, jnp.float32)
    back = float_order.numbers(float_order.integers(numbers))
    np.testing.assert_array_equal(np.asarray(back).view(np.uint8), np.asarray(numbers).view(np.uint8))


def test_powers_of_two_are_exact_in_float32():
    numbers = jnp.asarray([1e-37, 0.3, 1.0, 1.4, 1.6, 1e30], jnp.float32)
    mantissa, _ = np.frexp(np.asarray(float_order.power_of_two(numbers)))
    np.testing.assert_array_equal(mantissa, 0.5)
    np.testing.assert_array_less(np.abs(np.log2(float_order.power_of_two(numbers) / numbers)), 0.6)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("jit", [False, True])
def test_values_are_sorted_and_equal_ones_by_index(wide, jit):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=(4, 60)).round(1), rng.choice(NUMBERS, (4, 40))], 1)
    index = np.stack([rng.permutation(2**31 - 1 - np.arange(100)) for _ in range(4)])
    with jax.enable_x64(wide):
        values = jnp.asarray(values, jnp.float64 if wide else jnp.float32)
        index = jnp.asarray(index, jnp.int32)
        in_order = jax.jit(float_order.in_order) if jit else float_order.in_order
        found, place = in_order(values, index)
        assert found.dtype == values.dtype
        assert place.dtype == jnp.int32
        for row, (value, number) in enumerate(zip(np.asarray(values), np.asarray(index), strict=True)):
            order = np.lexsort((number, value))
            np.testing.assert_array_equal(found[row], value[order])
            np.testing.assert_array_equal(place[row], number[order])


def test_a_tangent_follows_its_value():
    values, index = jnp.array([3.0, 1.0, 3.0, -0.0, 0.0]), jnp.array([5, 4, 2, 1, 0])
    weight = jnp.arange(1.0, 6.0)
    gradient = jax.grad(lambda v: float_order.in_order(v, index)[0] @ weight)(values)
    np.testing.assert_array_equal(gradient, [5, 3, 4, 2, 1])
