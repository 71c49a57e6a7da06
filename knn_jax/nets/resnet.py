"""Residual networks: paper 4's for images of 128x128, paper 5's for 32x32 (He et al. 2016)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from knn_jax.nets.convolution import max_pool
from knn_jax.nets.normalised import blocks, convolution, normalise, scale
from knn_jax.nets.trunk import linear, spectral

# (blocks, channels) of the stages; the first three are ResNet-18.
SIZES = {
    "imagenet": ((2, 64), (2, 128), (2, 256), (2, 512)),
    "imagenette": ((2, 64), (2, 128), (2, 256), (2, 512)),
    "cifar": ((2, 64), (2, 128), (2, 256), (2, 512)),
    "small": ((1, 16), (1, 32), (1, 64), (1, 128)),
    "digits": ((1, 8), (1, 16)),
}
LARGE = ("imagenet", "imagenette", "digits")  # whose first layers quarter the image


def of_size(size: str, classes: int, half: bool = False) -> "ResNet":
    """The one of that name in `SIZES`."""
    return ResNet(SIZES[size], classes, size in LARGE, half)


class ResNet(nn.Module):
    """`(x, train) -> (logits, taps)`; taps are conv1, the first convolution pooled, and conv2, conv3,
    ... after every stage, as paper 4 numbers them, flattened; and pool, the mean of the last.

    `stages` holds (blocks, channels); those after the first halve the image. A `large` one is quartered
    first, by a convolution of 7x7 and a pooling; else that convolution is 3x3. `train` is as in
    `normalised.normalise`. Images are not normalised. With `half` convolutions are in bfloat16 while it
    is trained, everything else in float32.
    """

    stages: tuple[tuple[int, int], ...]
    classes: int
    large: bool = True
    half: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        dtype = jnp.bfloat16 if self.half and train is not False else None
        size, stride = (7, 2) if self.large else (3, 1)
        x = convolution(x, self.stages[0][1], size, stride, "conv1", dtype=dtype)
        x = nn.relu(normalise(x, train, "norm1"))
        if self.large:
            x = max_pool(x, 3, 2, 1)
        taps = {"conv1": x.reshape(len(x), -1)}
        for tap, name, channels, stride in blocks("conv", self.stages, 2):
            x = Block(channels, stride, dtype, name=name)(x, train)
            taps[tap] = x.reshape(len(x), -1)  # the last of a stage stays
        taps["pool"] = x.mean((1, 2))
        return linear(taps["pool"], self.classes, "fc"), taps

    def lipschitz(self, variables: Any, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to tap or fc, with running statistics.

        Norms of the layers multiplied, added where paths join: sound, and too large to be of use.
        """
        params, statistics = variables["params"], variables["batch_stats"]
        windows = 8 if self.large else 3  # of the convolution 4, and a pixel enters 2x2 of the pooling
        bound = windows * spectral(params["conv1"]["kernel"])
        bound *= scale(params["norm1"], statistics["norm1"])
        found = {"conv1": bound}
        for tap, name, _, stride in blocks("conv", self.stages, 2):
            bound *= _bound(params[name], statistics[name], stride)
            found[tap] = bound
        found["pool"] = bound  # a mean of n numbers has norm 1 / sqrt(n)
        if layer == "fc":
            return bound * spectral(params["fc"]["kernel"])
        if layer not in found:
            raise ValueError(f"no Lipschitz constant of the layer {layer!r}")
        return found[layer]


class Block(nn.Module):
    """Two convolutions, each normalised, added to the input, then ReLU.

    Where the shape changes, a normalised 1x1 convolution of the input stands for it.
    """

    channels: int
    stride: int
    dtype: Any = None  # of the convolutions

    @nn.compact
    def __call__(self, x, train=False):
        out = convolution(x, self.channels, 3, self.stride, "conv1", dtype=self.dtype)
        out = nn.relu(normalise(out, train, "norm1"))
        out = convolution(out, self.channels, 3, 1, "conv2", dtype=self.dtype)
        out = normalise(out, train, "norm2")
        if self.stride > 1 or x.shape[-1] != self.channels:
            x = convolution(x, self.channels, 1, self.stride, "shortcut", dtype=self.dtype)
            x = normalise(x, train, "norm_shortcut")
        return nn.relu(x + out)


def _bound(params, statistics, stride: int) -> float:
    """The Lipschitz constant of a block; a pixel enters ceil(3 / stride) windows of 3 along a side."""

    def layer(name, norm, windows):
        return windows * spectral(params[name]["kernel"]) * scale(params[norm], statistics[norm])

    around = layer("shortcut", "norm_shortcut", 1) if "shortcut" in params else 1.0
    return around + layer("conv1", "norm1", -(-3 // stride)) * layer("conv2", "norm2", 3)
