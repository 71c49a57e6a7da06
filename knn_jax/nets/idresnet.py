"""Residual layers that begin as the identity and share their weights (Qian et al., paper 3)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from knn_jax.nets.convolution import torch_uniform
from knn_jax.nets.trunk import linear, spectral

WIDTHS = {"cifar10": 2048, "mnist": 2048, "small": 256, "digits": 64}  # W_R
DECODERS = 3
LEAST = 0.1  # deviation that pixels are divided by at least: some of MNIST's never vary


class Branch(nn.Module):
    """W relu(x) + b. A ReLU after a W of zeros would have no slope, and nothing would be learnt."""

    features: int
    init: Callable

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.features, kernel_init=self.init, bias_init=self.init)(nn.relu(x))


class IdResNet(nn.Module):
    """`(x, train) -> (points, taps)`; taps are ots, dec1, dec2, dec3 and cl, which is the points.

    A point has `dim` numbers for each of the `subspaces`, and there are `classes` of them. Pixels are
    normalised, each by its mean and deviation over the images of `init`, which stay among the
    statistics; then `noise` is added. A linear layer ots makes `width` numbers more than a point has,
    three layers dec go on as x + f(x), and cl keeps the first of its input x as x + f(x). Where
    `shared`, the three have the same weights; where `identity`, all f are zero at first, and without it
    layers are f(x) alone, of random weights: a simple MLP. `branch(features, init)` makes f.
    """

    subspaces: int
    dim: int
    width: int
    classes: int
    shared: bool = True
    identity: bool = True
    branch: Callable[..., nn.Module] = Branch

    @nn.compact
    def __call__(self, x, train=False, noise: Any = 0.0):
        mean = self.variable("batch_stats", "mean", lambda: x.mean(0)).value
        std = self.variable("batch_stats", "std", lambda: x.std(0)).value
        x = (x - mean[None]) / jnp.maximum(std, LEAST)[None] + noise
        points = self.subspaces * self.dim
        state = points + self.width
        init = nn.initializers.zeros if self.identity else torch_uniform(state)
        names = ["dec"] * DECODERS if self.shared else [f"dec{i}" for i in range(1, DECODERS + 1)]
        layers = {name: self.branch(state, init, name=name) for name in dict.fromkeys(names)}

        x = linear(x.reshape(len(x), -1), state, "ots")
        taps = {"ots": x}
        for number, name in enumerate(names, 1):
            x = self._joined(x, layers[name], state)
            taps[f"dec{number}"] = x
        taps["cl"] = self._joined(x, self.branch(points, init, name="cl"), points)
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
        bound = spectral(parameters["ots"]["kernel"]) / least
        for tap in ("ots", *(f"dec{i}" for i in range(1, DECODERS + 1)), "cl"):
            if tap != "ots":
                name = "dec" if self.shared and tap != "cl" else tap
                bound *= self.identity + spectral(parameters[name]["Dense_0"]["kernel"])
            if tap == layer:
                return bound * (1 + 1e-6)
        raise ValueError(f"no Lipschitz constant of the layer {layer!r}")
