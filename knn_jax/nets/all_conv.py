"""All-convolutional networks: unpadded windows, strides for pooling, all normalised."""

import flax.linen as nn
from jaxtyping import Array, Float, PyTree

from knn_jax import values
from knn_jax.nets.batch_norm import convolution, normalise, scale
from knn_jax.nets.linear import linear, spectral
from knn_jax.nets.net import Net

Layers = tuple[tuple[int, int, int], ...]
# The last window of CIFAR-10's is 4: the paper says 3, but its sizes (192 x 4 x 4, then 3072 inputs)
# come of 4 only. Its appendix lists no ReLU after conv1 and conv5, its section 5.2 one after every
# convolution, as here.
CIFAR10 = (96, 3, 1), (96, 3, 1), (96, 3, 2), (192, 3, 1), (192, 4, 2)
SMALL = (16, 3, 1), (16, 3, 2), (32, 3, 1), (32, 4, 2)
DIGITS = (8, 3, 1), (16, 3, 2)


@values.value
class AllConv(Net):
    """Convolutions and linear layers with batch normalisation, with strides in the place of pooling."""

    layers: Layers
    """Channels, window and stride of each convolution; none is padded."""
    hidden: tuple[int, ...]
    """Numbers in each hidden layer."""

    batch_norm = True

    def build(self, classes: int) -> "AllConvModule":
        """The module."""
        return AllConvModule(self.layers, self.hidden, classes)


def cifar10_all_conv() -> AllConv:
    """The network of Zhao & Cho 2018 for CIFAR-10 and SVHN, by which RaCNN retrieves (appendix A)."""
    return AllConv(CIFAR10, (512, 128))


def small_all_conv() -> AllConv:
    """A small all-convolutional network for images of 32x32."""
    return AllConv(SMALL, (64,))


def digits_all_conv() -> AllConv:
    """The smallest all-convolutional network, for the digits."""
    return AllConv(DIGITS, (16,))


class AllConvModule(nn.Module):
    """`(x, train) -> (logits, layers)`; layers are conv1, conv2, ... after each ReLU, flattened.

    Normalised linear layers with ReLU, `hidden` wide, follow the convolutions (phi' and g' of Zhao &
    Cho 2018, section 7). `train` is as in `batch_norm.normalise`. Images are not normalised.
    """

    layers: Layers
    hidden: tuple[int, ...]
    classes: int

    @nn.compact
    def __call__(self, x, train=False):
        taps = stack(self.layers, x, train)
        x = perceptron(taps[f"conv{len(self.layers)}"], self.hidden, self.classes, train)
        return x, taps

    def lipschitz(self, variables: PyTree, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to layer or fc, by running statistics.

        Norms of the layers multiplied: sound, and too large to be of use.
        """
        params, statistics, bound = variables["params"], variables["batch_stats"], 1.0
        for number, (_, window, stride) in enumerate(self.layers, 1):
            name, norm = f"conv{number}", f"norm{number}"
            # A pixel enters ceil(window / stride) windows along a side.
            bound *= -(-window // stride) * spectral(params[name]["kernel"])
            bound *= scale(params[norm], statistics[norm])
            if layer == name:
                return bound
        for number in range(1, len(self.hidden) + 1):
            name, norm = f"hidden{number}", f"norm_hidden{number}"
            bound *= spectral(params[name]["kernel"]) * scale(params[norm], statistics[norm])
        if layer == "fc":
            return bound * spectral(params["fc"]["kernel"])
        raise ValueError(f"no Lipschitz constant of the layer {layer!r}")


def stack(layers: Layers, x, train) -> dict[str, Float[Array, "batch dim"]]:
    """The outputs of the convolutions, each normalised, with ReLU; called inside a module."""
    taps = {}
    for number, (channels, window, stride) in enumerate(layers, 1):
        x = convolution(x, channels, window, stride, f"conv{number}", padding=0)
        x = nn.relu(normalise(x, train, f"norm{number}"))
        taps[f"conv{number}"] = x.reshape(len(x), -1)
    return taps


def perceptron(x, hidden: tuple[int, ...], classes: int, train):
    """The output of linear layers, normalised with ReLU but the last; called inside a module."""
    for number, width in enumerate(hidden, 1):
        x = nn.relu(normalise(linear(x, width, f"hidden{number}"), train, f"norm_hidden{number}"))
    return linear(x, classes, "fc")
