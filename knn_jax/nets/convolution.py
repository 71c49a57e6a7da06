"""A convolution whose gradient is fast on a CPU too."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class Conv(nn.Module):
    """2-D convolution with bias, `padding` on each side; parameters as in `nn.Conv`."""

    channels: int
    size: int
    stride: int = 1
    padding: int = 0
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, x):
        shape = (self.size, self.size, x.shape[-1], self.channels)
        kernel = self.param("kernel", self.kernel_init, shape)
        fan_in = self.size**2 * x.shape[-1]
        bias = self.param("bias", torch_uniform(fan_in), (self.channels,))
        convolve = _convolve_on_cpu if jax.default_backend() == "cpu" else _convolve
        return convolve(x, kernel, self.stride, self.padding) + bias.reshape(1, 1, 1, -1)


def torch_uniform(fan_in):
    """PyTorch's default initialisation, U(+-1/sqrt(fan_in)), which the papers' code trained from."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _convolve(x, kernel, stride, padding):
    dimensions = ("NHWC", "HWIO", "NHWC")
    sides = ((padding, padding),) * 2
    return lax.conv_general_dilated(x, kernel, (stride,) * 2, sides, dimension_numbers=dimensions)


def _as_matmul(x, kernel, stride, padding):
    """The same convolution as strided slices and one matmul."""
    height, width, _, channels = kernel.shape
    x = jnp.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
    rows = (x.shape[1] - height) // stride + 1
    columns = (x.shape[2] - width) // stride + 1
    patches = [
        x[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        for i in range(height)
        for j in range(width)
    ]
    return jnp.concatenate(patches, -1) @ kernel.reshape(-1, channels)


# XLA's CPU backend runs transposed convolutions over padded zeros: the gradient of paper 1's trunk
# in the pixels takes 118 ms for 50 images, and 20 ms when only its tangent is the matmul (in the
# weights, 128 images: 387 and 135 ms; jax 0.10.2, 2 cores). Forward, the convolution is the faster.
@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _convolve_on_cpu(x, kernel, stride, padding):
    return _convolve(x, kernel, stride, padding)


@_convolve_on_cpu.defjvp
def _tangent(stride, padding, primals, tangents):
    (x, kernel), (dx, dkernel) = primals, tangents
    tangent = _as_matmul(dx, kernel, stride, padding) + _as_matmul(x, dkernel, stride, padding)
    return _convolve(x, kernel, stride, padding), tangent
