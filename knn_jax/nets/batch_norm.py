"""The layers that networks with batch normalisation are made of."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from knn_jax.nets.convolution import Conv

UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's, as they had it
EPSILON = 1e-5  # added to variances


def convolution(
    x,
    channels: int,
    size: int,
    stride: int,
    name: str,
    *,
    bias: bool = False,
    padding: int | None = None,
    dtype: DTypeLike | None = None,
):
    """A convolution inside a module; by default padded to its input's size over `stride`."""
    padding = size // 2 if padding is None else padding
    return Conv(channels, size, stride, padding, UNIFORM, bias, dtype, name=name)(x)


def normalise(x, train, name: str):
    """Inside a module: over the batch, or by running statistics where `train` is False.

    Otherwise it is True, or a mask (batch,) of the examples that count; the running statistics are
    then moved by a tenth (the variance as that of the batch, where PyTorch takes n / (n - 1) of it).
    """
    mask = None
    if train is not False:
        mask = jnp.broadcast_to(train, len(x)).reshape(-1, *(1,) * (x.ndim - 1))
    norm = nn.BatchNorm(momentum=0.9, epsilon=EPSILON, name=name)
    return norm(x, use_running_average=train is False, mask=mask)


def blocks(
    prefix: str, stages: tuple[tuple[int, int], ...], first: int
) -> list[tuple[str, str, int, int]]:
    """(layer of its stage, name, channels, stride) of each block of a residual network.

    Stages are (blocks, channels), numbered from `first`; those after the first halve the image.
    """
    return [
        (f"{prefix}{stage}", f"{prefix}{stage}_{block}", channels, 1 + (stage > first and block == 1))
        for stage, (count, channels) in enumerate(stages, first)
        for block in range(1, count + 1)
    ]


def scale(params, statistics) -> float:
    """What normalising by running statistics multiplies a distance by at most, rounded up."""
    factor, variance = (np.asarray(a, np.float64) for a in (params["scale"], statistics["var"]))
    return float(np.max(np.abs(factor) / np.sqrt(variance + EPSILON))) * (1 + 1e-6)
