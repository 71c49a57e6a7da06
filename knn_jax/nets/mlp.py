"""A multilayer perceptron: dense layers with ReLU."""

import flax.linen as nn
from jaxtyping import PyTree

from knn_jax import values
from knn_jax.nets.convnet import bound
from knn_jax.nets.linear import linear
from knn_jax.nets.net import Net


@values.value
class MLP(Net):
    """Dense layers with ReLU on the flattened image, then a linear layer."""

    widths: tuple[int, ...] = (256, 128)
    """Units of each hidden layer."""

    def __post_init__(self):
        values.at_least(1, widths=self.widths)
        if not self.widths:
            raise ValueError("widths=(): give at least one hidden layer")

    def build(self, classes: int) -> "MLPModule":
        """The module."""
        return MLPModule(self.widths, classes)


class MLPModule(nn.Module):
    """`(x, train) -> (logits, layers)`; layers are relu1, relu2, ... and fc."""

    widths: tuple[int, ...]
    classes: int

    @nn.compact
    def __call__(self, x, train=False):
        x, layers = x.reshape(len(x), -1), {}
        for number, width in enumerate(self.widths, 1):
            x = nn.relu(linear(x, width, f"dense{number}"))
            layers[f"relu{number}"] = x
        layers["fc"] = linear(x, self.classes, "fc")
        return layers["fc"], layers

    def lipschitz(self, variables: PyTree, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to layer."""
        hidden = [(f"relu{n}", f"dense{n}", 1) for n in range(1, 1 + len(self.widths))]
        return bound(variables, [*hidden, ("fc", "fc", 1)], layer)
