"""The residual network of paper 4, for images of 128x128 (He et al. 2016)."""

from typing import Any

import flax.linen as nn

from knn_jax.nets.normalised import blocks, convolution, normalise, scale
from knn_jax.nets.trunk import linear, spectral

SIDES: Any = ((1, 1), (1, 1))  # that the pooling pads
# (blocks, channels) of the stages; Imagenette's is ResNet-18.
SIZES = {
    "imagenette": ((2, 64), (2, 128), (2, 256), (2, 512)),
    "digits": ((1, 8), (1, 16)),
}


class ResNet(nn.Module):
    """`(x, train) -> (logits, taps)`; taps are conv1, the first convolution pooled, and conv2, conv3,
    ... after every stage, as paper 4 numbers them, flattened.

    `stages` holds (blocks, channels); those after the first halve the image, which the first
    convolution and its pooling have quartered. `train` is as in `normalised.normalise`. Images
    are not normalised.
    """

    stages: tuple[tuple[int, int], ...]
    classes: int

    @nn.compact
    def __call__(self, x, train=False):
        x = convolution(x, self.stages[0][1], 7, 2, "conv1")
        x = nn.relu(normalise(x, train, "norm1"))
        x = nn.max_pool(x, (3, 3), (2, 2), SIDES)
        taps = {"conv1": x.reshape(len(x), -1)}
        for tap, name, channels, stride in blocks("conv", self.stages, 2):
            x = Block(channels, stride, name=name)(x, train)
            taps[tap] = x.reshape(len(x), -1)  # the last of a stage stays
        return linear(x.mean((1, 2)), self.classes, "fc"), taps

    def lipschitz(self, variables: Any, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to tap, with running statistics.

        Norms of the layers multiplied, added where paths join: sound, and too large to be of use.
        """
        params, statistics = variables["params"], variables["batch_stats"]
        bound = 4 * spectral(params["conv1"]["kernel"]) * scale(params["norm1"], statistics["norm1"])
        bound *= 2  # a pixel enters four windows of the pooling
        found = {"conv1": bound}
        for tap, name, _, stride in blocks("conv", self.stages, 2):
            bound *= _bound(params[name], statistics[name], stride)
            found[tap] = bound
        if layer not in found:
            raise ValueError(f"no Lipschitz constant of the layer {layer!r}")
        return found[layer]


class Block(nn.Module):
    """Two convolutions, each normalised, added to the input, then ReLU.

    Where the shape changes, a normalised 1x1 convolution of the input stands for it.
    """

    channels: int
    stride: int

    @nn.compact
    def __call__(self, x, train=False):
        out = convolution(x, self.channels, 3, self.stride, "conv1")
        out = nn.relu(normalise(out, train, "norm1"))
        out = normalise(convolution(out, self.channels, 3, 1, "conv2"), train, "norm2")
        if self.stride > 1 or x.shape[-1] != self.channels:
            x = convolution(x, self.channels, 1, self.stride, "shortcut")
            x = normalise(x, train, "norm_shortcut")
        return nn.relu(x + out)


def _bound(params, statistics, stride: int) -> float:
    """The Lipschitz constant of a block; a pixel enters ceil(3 / stride) windows of 3 along a side."""

    def layer(name, norm, windows):
        return windows * spectral(params[name]["kernel"]) * scale(params[norm], statistics[norm])

    around = layer("shortcut", "norm_shortcut", 1) if "shortcut" in params else 1.0
    return around + layer("conv1", "norm1", -(-3 // stride)) * layer("conv2", "norm2", 3)
