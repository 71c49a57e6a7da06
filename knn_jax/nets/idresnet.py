"""Residual layers that begin as the identity and share their weights (Qian et al., paper 3)."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from knn_jax.nets.convolution import torch_uniform
from knn_jax.nets.trunk import linear, spectral

WIDTHS = {"cifar10": 2048, "mnist": 2048, "small": 256, "digits": 64}  # W_R
DECODERS = 3
WINDOW = 5  # of convolutions; the paper's last section found 5x5 better than 3x3
LEAST = 0.1  # deviation that pixels are divided by at least: some of MNIST's never vary


class Branch(nn.Module):
    """W relu(x) + b. A ReLU after a W of zeros would have no slope, and nothing would be learnt."""

    shape: tuple[int, ...]  # of what comes out, flattened
    init: Callable

    @nn.compact
    def __call__(self, x):
        features = math.prod(self.shape)
        return nn.Dense(features, kernel_init=self.init, bias_init=self.init)(nn.relu(x))


class Convolution(nn.Module):
    """The same of images, (height, width, channel), that come and go flattened."""

    shape: tuple[int, ...]
    init: Callable

    @nn.compact
    def __call__(self, x):
        image = nn.relu(x).reshape(len(x), *self.shape)
        window = WINDOW, WINDOW
        layer = nn.Conv(self.shape[-1], window, kernel_init=self.init, bias_init=self.init)
        return layer(image).reshape(x.shape)


class IdResNet(nn.Module):
    """`(x, train) -> (points, taps)`; taps are ots, dec1, dec2, dec3 and cl, which is the points.

    A point has `dim` numbers for each of the `subspaces`, and there are `classes` of them. Pixels are
    normalised, each by its mean and deviation over the images of `init`, which stay among the
    statistics; then `noise` is added. A linear layer ots makes `width` numbers more than a point has,
    three layers dec go on as x + f(x), and cl keeps the first of its input x as x + f(x). Where
    `shared`, the three have the same weights; where `identity`, all f are zero at first, and without it
    layers are f(x) alone, of random weights: a simple MLP. `branch(shape, init)` makes the f of the
    three. With `channels` the state is an image of so many, in place of `width`, and ots a convolution.

    Raises ValueError for an image of fewer numbers than a point has.
    """

    subspaces: int
    dim: int
    width: int
    classes: int
    shared: bool = True
    identity: bool = True
    branch: Any = Branch
    channels: int = 0

    @nn.compact
    def __call__(self, x, train=False, noise: Any = 0.0):
        mean = self.variable("batch_stats", "mean", lambda: x.mean(0)).value
        std = self.variable("batch_stats", "std", lambda: x.std(0)).value
        x = (x - mean[None]) / jnp.maximum(std, LEAST)[None] + noise
        points = self.subspaces * self.dim
        names = ["dec"] * DECODERS if self.shared else [f"dec{i}" for i in range(1, DECODERS + 1)]
        if self.channels:
            shape, fan_in = (*x.shape[1:3], self.channels), WINDOW**2 * self.channels
            if math.prod(shape) < points:
                raise ValueError(f"channels={self.channels}: too few for the {points} of a point")
            begun = torch_uniform(WINDOW**2 * x.shape[3])  # as a dense ots: else forces do not reach
            window = WINDOW, WINDOW
            ots = nn.Conv(self.channels, window, kernel_init=begun, bias_init=begun, name="ots")
            x = ots(x).reshape(len(x), -1)
        else:
            shape, fan_in = (points + self.width,), points + self.width
            x = linear(x.reshape(len(x), -1), fan_in, "ots")
        state = x.shape[1]

        def init(fan_in):
            return nn.initializers.zeros if self.identity else torch_uniform(fan_in)

        layers = {name: self.branch(shape, init(fan_in), name=name) for name in dict.fromkeys(names)}
        taps = {"ots": x}
        for number, name in enumerate(names, 1):
            x = self._joined(x, layers[name], state)
            taps[f"dec{number}"] = x
        taps["cl"] = self._joined(x, Branch((points,), init(state), name="cl"), points)
        return taps["cl"], taps

    def _joined(self, x, layer, kept):
        return x[:, :kept] + layer(x) if self.identity else layer(x)

    def lipschitz(self, variables: Any, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to tap, for the branches of ReLUs.

        Norms of the layers multiplied, plus 1 where the identity is added: sound, and too large to be
        of use.
        """
        parameters, statistics = variables["params"], variables["batch_stats"]
        least = max(float(jnp.min(statistics["std"])), LEAST)

        def norm(layer):  # a pixel enters as many windows as a convolution's kernel has places
            return spectral(layer["kernel"]) * (WINDOW if layer["kernel"].ndim > 2 else 1)

        bound = norm(parameters["ots"]) / least
        for tap in ("ots", *(f"dec{i}" for i in range(1, DECODERS + 1)), "cl"):
            if tap != "ots":
                name = "dec" if self.shared and tap != "cl" else tap
                [inner] = parameters[name].values()
                bound *= self.identity + norm(inner)
            if tap == layer:
                return bound * (1 + 1e-6)
        raise ValueError(f"no Lipschitz constant of the layer {layer!r}")
