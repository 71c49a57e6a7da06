"""Convolutional trunks with a tap after every layer."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from knn_jax.nets.convolution import Conv, torch_uniform

# He normal over the fan-out, as the authors' code had it.
HE = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def unchanged(stage: int, x):
    """What stands between the layers, unless told otherwise: nothing."""
    return x


class Trunk(nn.Module):
    """Convolutions with ReLU, then a linear layer: `(x, train) -> (logits, taps)`.

    `layers` holds (channels, size, stride, padding) of each convolution. Taps are relu1, relu2, ...
    (after the ReLU) and fc, each flattened to (batch, dim) in height, width, channel order. `between`
    takes the number of layers passed and their output, and gives what goes on (manifold mixup).
    """

    layers: tuple[tuple[int, int, int, int], ...]
    classes: int

    @nn.compact
    def __call__(self, x, train=False, between: Callable = unchanged):
        x, taps = convolutions(self.layers, x, HE, between)
        fc = linear(x, self.classes, "fc")
        taps["fc"] = between(len(self.layers) + 1, fc)
        return taps["fc"], taps

    def lipschitz(self, variables: Any, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to tap."""
        return bound(variables, [*stages(self.layers), ("fc", "fc", 1)], layer)


def convolutions(layers, x, init, between: Callable = unchanged):
    """Inside a module: the last of the convolutions, flattened, and the tap after each."""
    taps, x = {}, between(0, x)
    for number, (channels, size, stride, padding) in enumerate(layers, 1):
        x = nn.relu(Conv(channels, size, stride, padding, init, name=f"conv{number}")(x))
        x = between(number, x)
        taps[f"relu{number}"] = x.reshape(x.shape[0], -1)
    return x.reshape(x.shape[0], -1), taps


def linear(x, features: int, name: str):
    """Inside a module: a linear layer with PyTorch's initialisation."""
    init = torch_uniform(x.shape[1])
    return nn.Dense(features, kernel_init=init, bias_init=init, name=name)(x)


def stages(layers) -> list[tuple[str, str, int]]:
    """(tap, parameters, windows that a pixel enters along a side) of each convolution."""
    return [
        (f"relu{n}", f"conv{n}", -(-size // stride)) for n, (_, size, stride, _) in enumerate(layers, 1)
    ]


def bound(variables: Any, path: Sequence[tuple[str, str, int]], layer: str) -> float:
    """The norms of the layers up to the tap `layer`, multiplied: a Lipschitz constant in L2.

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


def spectral(kernel) -> float:
    matrix = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])
    return float(np.linalg.norm(matrix, 2)) * (1 + 1e-6)


# Paper 1's Basic network: 8x8/2, 6x6/2 and 5x5/1 convolutions, relu3 of 2,048 features; and a small one
# of the same shape for 8x8 images, relu3 of 576 features.
LAYERS = {
    "mnist": ((64, 8, 2, 3), (128, 6, 2, 3), (128, 5, 1, 0)),
    "digits": ((32, 3, 1, 1), (64, 4, 2, 1), (64, 2, 1, 0)),
}


def from_torch(weights: dict[str, np.ndarray], trunk: Trunk, shape: tuple[int, ...]):
    """Variables of `trunk` for images of `shape` from a PyTorch state dict of the same layers (OIHW; C,
    H, W order).

    Raises ValueError for names or shapes that are not this network's, and for what is no finite float.
    """
    fresh = jax.eval_shape(trunk.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    wanted = {}
    for name, layer in fresh["params"].items():
        *window, inputs, outputs = layer["kernel"].shape
        wanted[f"{name}.weight"] = outputs, inputs, *window
        wanted[f"{name}.bias"] = (outputs,)
    for name in sorted({*wanted} - {*weights}):
        raise ValueError(f"there is no {name}")
    for name in sorted({*weights} - {*wanted}):
        if "." in name:  # a layer's; a loss may have left numbers of its own, such as a temperature
            raise ValueError(f"this network has no {name}")
    for name, expected in wanted.items():
        array = weights[name]
        if array.shape != expected:
            raise ValueError(f"{name} is {array.shape}, and this network's is {expected}")
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"{name} is {array.dtype}: floats needed")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds NaN or infinite numbers")
    params = {}
    for number in range(1, len(trunk.layers) + 1):
        kernel = np.transpose(weights[f"conv{number}.weight"], (2, 3, 1, 0))
        params[f"conv{number}"] = {"kernel": kernel, "bias": weights[f"conv{number}.bias"]}
    classes, features = weights["fc.weight"].shape
    channels = trunk.layers[-1][0]
    side = round((features / channels) ** 0.5)
    kernel = weights["fc.weight"].reshape(classes, channels, side, side)
    kernel = np.transpose(kernel, (2, 3, 1, 0)).reshape(features, classes)
    params["fc"] = {"kernel": kernel, "bias": weights["fc.bias"]}
    return {"params": jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), params)}
