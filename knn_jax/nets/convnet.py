"""Plain convolutional networks: that of Sitawarin & Wagner 2019 for MNIST, and a small one."""

from collections.abc import Callable, Sequence

import flax.linen as nn
from jaxtyping import PyTree

from knn_jax import values
from knn_jax.nets.convolution import Conv
from knn_jax.nets.linear import linear, spectral
from knn_jax.nets.net import Net

Layers = tuple[tuple[int, int, int, int], ...]
MNIST = (64, 8, 2, 3), (128, 6, 2, 3), (128, 5, 1, 0)
DIGITS = (32, 3, 1, 1), (64, 4, 2, 1), (64, 2, 1, 0)
# He normal over the fan-out, as the authors' code had it.
HE = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def unchanged(stage: int, x):
    """The default of what is done between the layers: nothing."""
    return x


@values.value
class ConvNet(Net):
    """Convolutions with ReLU, then a linear layer, without normalisation."""

    layers: Layers
    """Channels, window, stride and padding of each convolution."""

    def __post_init__(self):
        for channels, size, stride, padding in self.layers:
            values.at_least(1, channels=channels, size=size, stride=stride)
            values.at_least(0, padding=padding)

    def build(self, classes: int) -> "ConvNetModule":
        """The module."""
        return ConvNetModule(self.layers, classes)


def mnist_convnet() -> ConvNet:
    """The network of Sitawarin & Wagner 2019 for MNIST, section 4.1: relu3 has 2,048 features."""
    return ConvNet(MNIST)


def digits_convnet() -> ConvNet:
    """A small one of the same shape for images of 8x8: relu3 has 576 features."""
    return ConvNet(DIGITS)


class ConvNetModule(nn.Module):
    """`(x, train) -> (logits, layers)`; layers are relu1, relu2, ... (after the ReLU) and fc.

    Each is flattened to (batch, dim) in height, width, channel order. `between` takes the number of
    layers passed and their output, and gives what goes on (manifold mixup).
    """

    layers: Layers
    classes: int

    @nn.compact
    def __call__(self, x, train=False, between: Callable = unchanged):
        x, taps = convolutions(self.layers, x, HE, between)
        fc = linear(x, self.classes, "fc")
        taps["fc"] = between(len(self.layers) + 1, fc)
        return taps["fc"], taps

    def torch_names(self) -> dict[str, str]:
        """The same as ours."""
        return {name: name for name in (*(name for _, name, _ in stages(self.layers)), "fc")}

    def lipschitz(self, variables: PyTree, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to layer."""
        return bound(variables, [*stages(self.layers), ("fc", "fc", 1)], layer)


def convolutions(layers, x, init, between: Callable = unchanged):
    """Inside a module: the last of the convolutions, flattened, and the layer after each."""
    taps, x = {}, between(0, x)
    for number, (channels, size, stride, padding) in enumerate(layers, 1):
        x = nn.relu(Conv(channels, size, stride, padding, init, name=f"conv{number}")(x))
        x = between(number, x)
        taps[f"relu{number}"] = x.reshape(x.shape[0], -1)
    return x.reshape(x.shape[0], -1), taps


def stages(layers) -> list[tuple[str, str, int]]:
    """(layer, parameters, windows that a pixel enters along a side) of each convolution."""
    return [
        (f"relu{n}", f"conv{n}", -(-size // stride)) for n, (_, size, stride, _) in enumerate(layers, 1)
    ]


def bound(variables: PyTree, path: Sequence[tuple[str, str, int]], layer: str) -> float:
    """The norms of the layers up to `layer`, multiplied: a Lipschitz constant in L2.

    `path` is that of `stages`. Each pixel enters at most ceil(size/stride)^2 windows, so that the norm
    of a convolution is at most the root of that times the spectral norm of its kernel as a matrix;
    ReLU's is 1. Rounded up.
    """
    product = 1.0
    for tap, name, windows in path:
        product *= spectral(variables["params"][name]["kernel"]) * windows
        if tap == layer:
            return product
    raise ValueError(f"no Lipschitz constant of the layer {layer!r}")
