"""Pre-activation residual networks with a layer for every stage (He et al. 2016)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import PyTree

from knn_jax import values
from knn_jax.nets.batch_norm import blocks, convolution, normalise, scale
from knn_jax.nets.linear import linear, spectral
from knn_jax.nets.net import Net

Stages = tuple[tuple[int, int], ...]


@values.value
class PreActResNet(Net):
    """A pre-activation residual network, of pixels that are first normalised by channel."""

    stages: Stages
    """Blocks and channels of each stage; those after the first halve the image."""
    mean: tuple[float, ...]
    """Mean of each channel of the images, which is subtracted."""
    std: tuple[float, ...]
    """Deviation of each channel of the images, by which they are divided."""

    batch_norm = True

    def build(self, classes: int) -> "PreActResNetModule":
        """The module."""
        return PreActResNetModule(self.stages, classes, self.mean, self.std)


def cifar10_preact_resnet() -> PreActResNet:
    """What Sitawarin & Wagner 2019 call ResNet-20: 20 convolutions, three of them shortcuts."""
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    return PreActResNet(((2, 64), (2, 128), (2, 256), (2, 512)), mean, std)


def digits_preact_resnet() -> PreActResNet:
    """A small one, with the mean and deviation of the digits."""
    return PreActResNet(((1, 8), (1, 16)), (0.305,), (0.376,))


class PreActResNetModule(nn.Module):
    """`(x, train) -> (logits, layers)`; layers are layer1, layer2, ..., flattened before the pooling.

    `train` is False for running statistics; True, or a mask (batch,) of the examples that count, for
    those of the batch, which then move the running ones by a tenth (the variance as that of the batch,
    where PyTorch takes n / (n - 1) of it).
    """

    stages: Stages
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @nn.compact
    def __call__(self, x, train=False):
        mean, std = (jnp.array(value, x.dtype).reshape(1, 1, 1, -1) for value in (self.mean, self.std))
        x, taps = convolution((x - mean) / std, self.stages[0][1], 3, 1, "conv1"), {}
        for tap, name, channels, stride in blocks("layer", self.stages, 1):
            x = Block(channels, stride, name=name)(x, train)
            taps[tap] = x.reshape(len(x), -1)  # the last of a stage stays
        return linear(x.mean((1, 2)), self.classes, "fc"), taps

    def lipschitz(self, variables: PyTree, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to layer or fc, by running statistics.

        Norms of the layers multiplied, added where paths join: sound, and too large to be of use.
        """
        bound, found = 3 * spectral(variables["params"]["conv1"]["kernel"]) / min(self.std), {}
        for tap, name, _, stride in blocks("layer", self.stages, 1):
            bound *= _bound(variables["params"][name], variables["batch_stats"][name], stride)
            found[tap] = bound
        if layer == "fc":
            return bound * spectral(variables["params"]["fc"]["kernel"])
        if layer not in found:
            raise ValueError(f"no Lipschitz constant of the layer {layer!r}")
        return found[layer]


class Block(nn.Module):
    """Two convolutions, each of its input normalised and cut at 0, added to the input.

    Where the shape changes, a 1x1 convolution of the first such input stands for the input.
    """

    channels: int
    stride: int

    @nn.compact
    def __call__(self, x, train=False):
        active = activation(x, train, "norm1")
        if self.stride > 1 or x.shape[-1] != self.channels:
            x = convolution(active, self.channels, 1, self.stride, "shortcut")
        out = convolution(active, self.channels, 3, self.stride, "conv1")
        return x + convolution(activation(out, train, "norm2"), self.channels, 3, 1, "conv2")


def activation(x, train, name: str):
    """Inside a module: normalised and cut at 0."""
    return nn.relu(normalise(x, train, name))


def _bound(params, statistics, stride: int) -> float:
    """The Lipschitz constant of a block; a pixel enters ceil(3 / stride) windows of 3 along a side."""
    around = 1.0
    norm1, norm2 = (scale(params[name], statistics[name]) for name in ("norm1", "norm2"))
    if "shortcut" in params:
        around = norm1 * spectral(params["shortcut"]["kernel"])
    first = norm1 * spectral(params["conv1"]["kernel"]) * -(-3 // stride)
    return around + first * norm2 * spectral(params["conv2"]["kernel"]) * 3
