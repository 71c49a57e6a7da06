"""VGG networks with batch normalisation and a layer for every block (Simonyan & Zisserman 2015)."""

import flax.linen as nn
from jaxtyping import PyTree

from knn_jax import values
from knn_jax.nets.batch_norm import convolution, normalise, scale
from knn_jax.nets.convolution import max_pool
from knn_jax.nets.linear import linear, spectral
from knn_jax.nets.net import Net

Blocks = tuple[tuple[int, int], ...]


@values.value
class VGG(Net):
    """A VGG network with batch normalisation and dropout; images are not normalised."""

    blocks: Blocks
    """Convolutions of 3x3 and their channels in each block, after which the image is halved."""
    hidden: tuple[int, ...]
    """Numbers in each hidden layer, before which half are dropped in training."""

    batch_norm = True

    def __post_init__(self):
        values.at_least(1, blocks=self.blocks, hidden=self.hidden)

    def build(self, classes: int) -> "VGGModule":
        """The module."""
        return VGGModule(self.blocks, self.hidden, classes)


def cifar10_vgg() -> VGG:
    """The VGG16 of Wang et al. 2021 (ASK)."""
    return VGG(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), (512, 512))


def mnist_vgg() -> VGG:
    """A small VGG for MNIST."""
    return VGG(((1, 16), (1, 32), (1, 64), (1, 64)), (64,))


def digits_vgg() -> VGG:
    """The smallest VGG, for the digits."""
    return VGG(((1, 8), (2, 16)), (16,))


class VGGModule(nn.Module):
    """`(x, train) -> (logits, layers)`: conv1, conv2, ... after each block's pooling, flattened.

    Each block is convolutions of 3x3, normalised, with ReLU, and a maximum over 2x2. Before each of the
    `hidden` layers half of the numbers are dropped where `train` is not False, if apply is given a key
    for `dropout`. `train` is as in `batch_norm.normalise`.
    """

    blocks: Blocks
    hidden: tuple[int, ...]
    classes: int

    @nn.compact
    def __call__(self, x, train=False):
        taps = {}
        for number, (count, channels) in enumerate(self.blocks, 1):
            for name in self._names(number, count):
                x = convolution(x, channels, 3, 1, name, bias=True)
                x = nn.relu(normalise(x, train, f"{name}_norm"))
            x = max_pool(x, 2, 2)
            taps[f"conv{number}"] = x.reshape(len(x), -1)
        x, fixed = x.reshape(len(x), -1), train is False or not self.has_rng("dropout")
        for number, width in enumerate(self.hidden, 1):
            x = nn.Dropout(0.5)(x, deterministic=fixed)
            x = nn.relu(linear(x, width, f"hidden{number}"))
        return linear(x, self.classes, "fc"), taps

    def lipschitz(self, variables: PyTree, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to layer or fc, by running statistics.

        Norms of the layers multiplied: sound, and too large to be of use.
        """
        bound = 1.0
        for number, (count, _) in enumerate(self.blocks, 1):
            for name in self._names(number, count):
                norm = f"{name}_norm"
                bound *= 3 * spectral(variables["params"][name]["kernel"])
                bound *= scale(variables["params"][norm], variables["batch_stats"][norm])
            if layer == f"conv{number}":
                return bound
        for name in [*(f"hidden{number}" for number in range(1, len(self.hidden) + 1)), "fc"]:
            bound *= spectral(variables["params"][name]["kernel"])
        if layer == "fc":
            return bound
        raise ValueError(f"no Lipschitz constant of the layer {layer!r}")

    def _names(self, block: int, count: int) -> list[str]:
        return [f"conv{block}_{number}" for number in range(1, count + 1)]
