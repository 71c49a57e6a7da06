"""Convolution and pooling: those of lax and flax, in forms that are fast."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from knn_jax.nets import convolution

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(3, 1, 1), (4, 2, 1), (6, 2, 2), (2, 3, 0), (8, 1, 4), (8, 3, 2)]
)
def test_the_convolution_and_its_derivatives_are_those_of_lax(size, stride, padding):
    keys = jax.random.split(jax.random.key(0), 5)
    x, dx = (jax.random.normal(key, (2, 7, 9, 3)) for key in keys[:2])
    kernel, dkernel = (jax.random.normal(key, (size, size, 3, 4)) for key in keys[2:4])

    def plain(x, kernel):
        sides = ((padding, padding),) * 2
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), sides, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def ours(x, kernel):
        return convolution.convolve(x, kernel, stride, padding)

    @jax.jit
    def derivatives(x, kernel, dx, dkernel):
        def of(convolve):
            out, forward = jax.jvp(convolve, (x, kernel), (dx, dkernel))
            weight = jax.random.normal(keys[4], out.shape)
            backward = jax.grad(lambda *a: jnp.sum(weight * convolve(*a)), (0, 1))(x, kernel)
            return out, forward, *backward

        return of(ours), of(plain)

    for mine, expected in zip(*derivatives(x, kernel, dx, dkernel), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 0)])
def test_pooling_and_its_gradient_are_those_of_flax(size, stride, padding):
    x = jax.random.normal(jax.random.key(0), (2, 7, 8, 3))
    sides: Any = ((padding, padding),) * 2

    def plain(x):
        return nn.max_pool(x, (size, size), (stride, stride), sides)

    def ours(x):
        return convolution.max_pool(x, size, stride, padding)

    weight = jax.random.normal(jax.random.key(1), plain(x).shape)
    np.testing.assert_array_equal(ours(x), plain(x))
    mine, expected = (jax.grad(lambda x, of=of: jnp.sum(weight * of(x)))(x) for of in (ours, plain))
    np.testing.assert_allclose(mine, expected, rtol=1e-6, atol=1e-6)
    assert jax.grad(lambda x: jnp.sum(ours(x)))(jnp.zeros_like(x)).sum() == weight.size


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what XLA's CPU backend is slow at")
@pytest.mark.parametrize(
    ("size", "stride", "padding", "expected"),
    [(3, 1, 1, 2), (3, 2, 1, 1), (5, 1, 0, 1), (8, 1, 4, 0)],
    ids=["both", "a stride", "larger than its output", "larger than its image"],
)
def test_attacks_convolve_by_no_slow_form(size, stride, padding, expected):
    """A loop of gradients convolves by kernels in the usual order and within their images, or not."""
    kernel = jax.random.normal(jax.random.key(0), (size, size, 3, 4))

    def step(_, x):
        y = jax.grad(lambda x: jnp.sum(convolution.convolve(x, kernel, stride, padding) ** 2))(x)
        return x + 0.1 * y

    loop = jax.jit(lambda x: lax.fori_loop(0, 3, step, x))
    program = loop.lower(jax.ShapeDtypeStruct((2, 7, 7, 3), jnp.float32)).compile().as_text()
    found = re.findall(r" convolution\(.*?dim_labels=(\S+?),", program)
    assert len(found) == expected
    assert set(found) <= {"b01f_01io->b01f"}
