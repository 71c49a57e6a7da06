"""The image itself in the place of a network's features."""

import flax.linen as nn
from jaxtyping import PyTree

from knn_jax import values
from knn_jax.nets.net import Net


@values.value
class Pixels(Net):
    """The image itself; there is nothing to train."""

    classifies = False

    def build(self, classes: int) -> "PixelsModule":
        """The module."""
        return PixelsModule()


class PixelsModule(nn.Module):
    """The identity: its one layer, pixels, is the flattened image. It has no parameters."""

    @nn.compact
    def __call__(self, x, train=False):
        flat = x.reshape(x.shape[0], -1)
        return flat, {"pixels": flat}

    def lipschitz(self, variables: PyTree, layer: str) -> float:
        """The constant is 1: the features are the pixels."""
        return 1.0
