"""Paper 2's convolutional network: unpadded windows, strides for pooling, all normalised."""

from typing import Any

import flax.linen as nn

from knn_jax.nets.normalised import convolution, normalise, scale
from knn_jax.nets.trunk import linear, spectral

Layers = tuple[tuple[int, int, int], ...]
# (channels, window, stride) of the convolutions. The last window of CIFAR-10's is 4: the paper says 3,
# but its sizes (192 x 4 x 4, then 3072 inputs) come of 4 only. Its appendix lists no ReLU after conv1
# and conv5, its section 5.2 one after every convolution, as here.
SIZES: dict[str, Layers] = {
    "cifar10": ((96, 3, 1), (96, 3, 1), (96, 3, 2), (192, 3, 1), (192, 4, 2)),
    "small": ((16, 3, 1), (16, 3, 2), (32, 3, 1), (32, 4, 2)),
    "digits": ((8, 3, 1), (16, 3, 2)),
}
HIDDEN = {"cifar10": (512, 128), "small": (64,), "digits": (16,)}


class Strided(nn.Module):
    """`(x, train) -> (logits, taps)`; taps are conv1, conv2, ... after each ReLU, flattened.

    Normalised linear layers with ReLU, `hidden` wide, follow the convolutions (phi' and g' of paper 2,
    section 7). `train` is as in `normalised.normalise`. Images are not normalised.
    """

    layers: Layers
    hidden: tuple[int, ...]
    classes: int

    @nn.compact
    def __call__(self, x, train=False):
        taps = stack(self.layers, x, train)
        x = perceptron(taps[f"conv{len(self.layers)}"], self.hidden, self.classes, train)
        return x, taps

    def lipschitz(self, variables: Any, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to tap or fc, with running statistics.

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


def stack(layers: Layers, x, train) -> dict[str, Any]:
    """Inside a module: the convolutions, each normalised, with ReLU; all taps."""
    taps = {}
    for number, (channels, window, stride) in enumerate(layers, 1):
        x = convolution(x, channels, window, stride, f"conv{number}", padding=0)
        x = nn.relu(normalise(x, train, f"norm{number}"))
        taps[f"conv{number}"] = x.reshape(len(x), -1)
    return taps


def perceptron(x, hidden: tuple[int, ...], classes: int, train):
    """Inside a module: linear layers, normalised with ReLU, and a last one without."""
    for number, width in enumerate(hidden, 1):
        x = nn.relu(normalise(linear(x, width, f"hidden{number}"), train, f"norm_hidden{number}"))
    return linear(x, classes, "fc")
