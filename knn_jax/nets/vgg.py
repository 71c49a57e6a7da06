"""VGG networks with batch normalisation and a tap after every block (Simonyan & Zisserman 2015)."""

from typing import Any

import flax.linen as nn

from knn_jax.nets.convolution import max_pool
from knn_jax.nets.normalised import convolution, normalise, scale
from knn_jax.nets.trunk import linear, spectral

# (convolutions, channels) of the blocks, and the hidden layers. CIFAR-10's is the VGG16 of paper 4.
SIZES = {
    "cifar10": (((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), (512, 512)),
    "mnist": (((1, 16), (1, 32), (1, 64), (1, 64)), (64,)),
    "digits": (((1, 8), (2, 16)), (16,)),
}


class VGG(nn.Module):
    """`(x, train) -> (logits, taps)`; taps are conv1, conv2, ... after each block's pooling, flattened.

    Each block is convolutions of 3x3, normalised, with ReLU, and a maximum over 2x2. Before each of the
    `hidden` layers half of the numbers are dropped where `train` is not False, if apply is given a key
    for `dropout`. `train` is as in `normalised.normalise`. Images are not normalised.
    """

    blocks: tuple[tuple[int, int], ...]
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

    def lipschitz(self, variables: Any, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to tap or fc, with running statistics.

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
