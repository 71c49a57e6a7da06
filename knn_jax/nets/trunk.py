"""Convolutional trunks with a tap after every layer."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from knn_jax.nets.convolution import Conv, torch_uniform


class Trunk(nn.Module):
    """Convolutions with ReLU, then a linear layer: `(x, train) -> (logits, taps)`.

    `layers` holds (channels, size, stride, padding) of each convolution. Taps are relu1, relu2, ...
    (after the ReLU) and fc, each flattened to (batch, dim) in height, width, channel order.
    """

    layers: tuple[tuple[int, int, int, int], ...]
    classes: int

    @nn.compact
    def __call__(self, x, train=False):
        taps = {}
        for number, (channels, size, stride, padding) in enumerate(self.layers, 1):
            # He normal over the fan-out, as the authors' code had it.
            init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
            x = nn.relu(Conv(channels, size, stride, padding, init, name=f"conv{number}")(x))
            taps[f"relu{number}"] = x.reshape(x.shape[0], -1)
        x = x.reshape(x.shape[0], -1)
        init = torch_uniform(x.shape[1])
        taps["fc"] = nn.Dense(self.classes, kernel_init=init, bias_init=init, name="fc")(x)
        return taps["fc"], taps

    def lipschitz(self, variables: Any, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to tap: the layers' norms multiplied.

        Each pixel enters at most ceil(size/stride)^2 windows, so a convolution's norm is at most its
        square root times the spectral norm of the kernel as a matrix; ReLU's is 1. Rounded up.
        """
        params, bound = variables["params"], 1.0
        for number, (_, size, stride, _) in enumerate(self.layers, 1):
            bound *= _spectral(params[f"conv{number}"]["kernel"]) * -(-size // stride)
            if layer == f"relu{number}":
                return bound
        return bound * _spectral(params["fc"]["kernel"])


def _spectral(kernel) -> float:
    matrix = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])
    return float(np.linalg.norm(matrix, 2)) * (1 + 1e-6)


def mnist(classes: int = 10) -> Trunk:
    """Paper 1's Basic network: 8x8/2, 6x6/2 and 5x5/1 convolutions; relu3 has 2,048 features."""
    return Trunk(((64, 8, 2, 3), (128, 6, 2, 3), (128, 5, 1, 0)), classes)


def digits(classes: int = 10) -> Trunk:
    """A small trunk of the same shape for 8x8 images; relu3 has 576 features."""
    return Trunk(((32, 3, 1, 1), (64, 4, 2, 1), (64, 2, 1, 0)), classes)


def from_torch(weights: dict[str, np.ndarray], trunk: Trunk):
    """Variables of `trunk` from a PyTorch state dict of the same layers (OIHW; C, H, W order)."""
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
    return {"params": {k: {n: jnp.asarray(v) for n, v in p.items()} for k, p in params.items()}}
