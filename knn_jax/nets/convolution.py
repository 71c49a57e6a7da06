"""Convolution and pooling that are fast on a CPU too, and so are their gradients."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike


class Conv(nn.Module):
    """2-D convolution by a square, `padding` on each side; parameters as in `nn.Conv`.

    Numbers are multiplied in `dtype`, if it is given; parameters and what comes out stay as they are.
    """

    channels: int
    size: int
    stride: int = 1
    padding: int = 0
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    use_bias: bool = True
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x):
        dtype = self.dtype or x.dtype
        shape = (self.size, self.size, x.shape[-1], self.channels)
        kernel = self.param("kernel", self.kernel_init, shape)
        y = convolve(x.astype(dtype), kernel.astype(dtype), self.stride, self.padding)
        if self.use_bias:
            fan_in = self.size**2 * x.shape[-1]
            bias = self.param("bias", torch_uniform(fan_in), (self.channels,))
            y += bias.astype(dtype).reshape(1, 1, 1, -1)
        return y.astype(x.dtype)


def torch_uniform(fan_in):
    """PyTorch's default initialisation, U(+-1/sqrt(fan_in)), which the papers' code trained from."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def convolve(x, kernel, stride: int, padding: int):
    """The convolution of images by a square kernel, in the forms that XLA's CPU backend is fast at.

    It loops, one number at a time, over a convolution whose window is larger than its image before
    padding, and the gradient in the image has the output for its image: these are matmuls here, 5 ms in
    place of 420 for 25 images of 2x2 in 512 channels. So is the gradient in the image over a stride,
    which would multiply by zeros. Inside a loop, where attacks take gradients, it is slow too at a
    kernel whose axes are not in the usual order, as that gradient has it from `lax`: 39 ms in place of
    134 for 25 images of 32x32 in 64 channels (jax 0.10.2, 1 core).
    """
    if jax.default_backend() == "cpu":
        return _on_cpu(x, kernel, stride, padding)
    return _labelled(x, kernel, stride, padding, "HWIO")


def _labelled(x, kernel, stride, padding, axes):
    sides, dimensions = ((padding, padding),) * 2, ("NHWC", axes, "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride,) * 2, sides, dimension_numbers=dimensions)


def max_pool(x, size: int, stride: int, padding: int = 0):
    """The largest number of each square window, as `nn.max_pool` gives it.

    The gradient of that is a scatter, which XLA's CPU backend is slow at: 28 ms for 128 images of 28x28
    in 16 channels, 2 ms here. Equal numbers share the gradient.
    """
    sides = (padding, padding)
    x = jnp.pad(x, ((0, 0), sides, sides, (0, 0)), constant_values=-jnp.inf)
    return functools.reduce(jnp.maximum, _windows(x, size, stride))


def _windows(x, size, stride):
    """Of every window the number in its first place, of every window that in its second, and so on."""
    rows, columns = ((side - size) // stride * stride + 1 for side in x.shape[1:3])
    return [x[:, i : i + rows : stride, j : j + columns : stride] for i, j in np.ndindex(size, size)]


def _as_matmul(x, kernel, stride, padding):
    """The same as strided slices and one matmul."""
    x = jnp.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
    patches = jnp.concatenate(_windows(x, len(kernel), stride), -1)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _on_cpu(x, kernel, stride, padding):
    if len(kernel) > min(x.shape[1:3]):
        return _as_matmul(x, kernel, stride, padding)
    return _labelled(x, kernel, stride, padding, "HWIO")


@_on_cpu.defjvp
def _tangent(stride, padding, primals, tangents):
    (x, kernel), (dx, dkernel) = primals, tangents
    y = _on_cpu(x, kernel, stride, padding)
    if stride > 1 or len(kernel) > min(*x.shape[1:3], *y.shape[1:3]):
        moved = _as_matmul(dx, kernel, stride, padding)
    else:  # transposed for the gradient, it has the axes of its kernel in the usual order
        moved = _labelled(dx, kernel.swapaxes(2, 3), stride, padding, "HWOI")
    return y, moved + _on_cpu(x, dkernel, stride, padding)
