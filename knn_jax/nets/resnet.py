"""Residual networks for images of 128x128 and of 32x32 (He et al. 2016)."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import PyTree

from knn_jax import values
from knn_jax.nets.batch_norm import blocks, convolution, normalise, scale
from knn_jax.nets.convolution import max_pool
from knn_jax.nets.linear import linear, spectral
from knn_jax.nets.net import Net

Stages = tuple[tuple[int, int], ...]
RESNET18 = (2, 64), (2, 128), (2, 256), (2, 512)
IN_TORCH = {  # the layers of a block
    "conv1": "conv1",
    "norm1": "bn1",
    "conv2": "conv2",
    "norm2": "bn2",
    "shortcut": "downsample.0",
    "norm_shortcut": "downsample.1",
}


@values.value
class ResNet(Net):
    """A residual network with batch normalisation. It takes weights of torchvision's of these sizes."""

    stages: Stages = RESNET18
    """Blocks and channels of each stage; those after the first halve the image."""
    large: bool = True
    """Whether the image is quartered first, by a convolution of 7x7 and a pooling, instead of a 3x3."""
    half: bool = False
    """Whether convolutions are in bfloat16 while the network is trained; all else is in float32."""

    mean: tuple[float, ...] = ()
    """Mean of each channel, which is subtracted from images first; empty: they stay as they are."""
    deviation: tuple[float, ...] = ()
    """Standard deviation of each channel, by which images are divided then."""

    batch_norm = True

    def __post_init__(self):
        values.above(0, deviation=self.deviation)
        if len(self.mean) != len(self.deviation):
            raise ValueError(
                f"mean={self.mean} and deviation={self.deviation}: give one of each channel"
            )

    def build(self, classes: int) -> "ResNetModule":
        """The module."""
        sizes = self.stages, classes, self.large, self.half
        return ResNetModule(*sizes, self.mean, self.deviation)


def imagenet_resnet18(half: bool = False) -> ResNet:
    """PyTorch's ResNet-18 for ImageNet, by which RaCNN retrieves (Zhao & Cho 2018, section 5.4)."""
    return ResNet(half=half)


def torchvision_resnet18(half: bool = False) -> ResNet:
    """The same on normalised images, as torchvision's weights have learnt them."""
    return ResNet(half=half, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))


def imagenette_resnet18(half: bool = False) -> ResNet:
    """ResNet-18 for images of 128x128 (Wang et al. 2021, ASK)."""
    return ResNet(half=half)


def cifar_resnet18(half: bool = False) -> ResNet:
    """ResNet-18 for images of 32x32 (Serban, Poll & Visser 2021)."""
    return ResNet(large=False, half=half)


def small_resnet(half: bool = False) -> ResNet:
    """A small residual network for images of 32x32."""
    return ResNet(((1, 16), (1, 32), (1, 64), (1, 128)), large=False, half=half)


def digits_resnet(half: bool = False) -> ResNet:
    """The smallest residual network, for the digits."""
    return ResNet(((1, 8), (1, 16)), half=half)


class ResNetModule(nn.Module):
    """`(x, train) -> (logits, layers)`; layers are conv1, the first convolution pooled, and conv2,
    conv3, ... after every stage, as Wang et al. 2021 number them, flattened; and pool, the mean of the
    last.

    `train` is as in `batch_norm.normalise`.
    """

    stages: Stages
    classes: int
    large: bool = True
    half: bool = False
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    @nn.compact
    def __call__(self, x, train=False):
        if self.mean:
            if x.shape[-1] != len(self.mean):
                raise ValueError(f"mean={self.mean}: images have {x.shape[-1]} channels")
            mean, deviation = (
                jnp.array(numbers, x.dtype).reshape(1, 1, 1, -1)
                for numbers in (self.mean, self.deviation)
            )
            x = (x - mean) / deviation
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

    def torch_names(self) -> dict[str, str]:
        """Those of torchvision's ResNet."""
        found = {"conv1": "conv1", "norm1": "bn1"}
        names = [name for _, name, _, _ in blocks("layer", self.stages, 1)]
        for (_, ours, _, _), name in zip(blocks("conv", self.stages, 2), names, strict=True):
            stage, _, block = name.partition("_")
            theirs = f"{stage}.{int(block) - 1}"
            found |= {f"{ours}/{layer}": f"{theirs}.{other}" for layer, other in IN_TORCH.items()}
        return {**found, "fc": "fc"}

    def lipschitz(self, variables: PyTree, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to layer or fc, by running statistics.

        Norms of the layers multiplied, added where paths join: sound, and too large to be of use.
        """
        params, statistics = variables["params"], variables["batch_stats"]
        windows = 8 if self.large else 3  # of the convolution 4, and a pixel enters 2x2 of the pooling
        bound = windows * spectral(params["conv1"]["kernel"])
        bound *= scale(params["norm1"], statistics["norm1"]) / min(self.deviation or (1.0,))
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
    dtype: DTypeLike | None = None  # of the convolutions

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
