"""Residual layers that begin as the identity and share their weights (Qian, An & Su, IdResNet)."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from knn_jax import values
from knn_jax.nets.convolution import torch_uniform
from knn_jax.nets.linear import linear, spectral
from knn_jax.nets.net import Net

DECODERS = 3
WINDOW = 5  # of convolutions; the paper's last section found 5x5 better than 3x3
LEAST = 0.1  # deviation that pixels are divided by at least: some of MNIST's never vary


@values.value
class IdResNet(Net):
    """A linear layer, three residual layers that begin as the identity, and one that makes a point."""

    width: int = 2048
    """Numbers of the inner layers beyond those of a point (W_R in Qian, An & Su, IdResNet)."""
    subspaces: int = 2
    """Subspaces of a point, the distances in which are added."""
    dim: int = 15
    """Dimensions of each subspace of a point."""
    shared: bool = True
    """Whether the three inner layers have the same weights."""
    identity: bool = True
    """Whether layers are x + f(x) with f zero at first; if not, they are f(x): a simple MLP."""
    channels: int | None = None
    """Channels of the image that the inner layers are given, as convolutions of 5x5; None: these layers
    are dense, and `width` counts."""

    classifies = False

    def __post_init__(self):
        values.at_least(0, width=self.width)
        values.at_least(1, subspaces=self.subspaces, dim=self.dim, channels=self.channels)

    def build(self, classes: int) -> "IdResNetModule":
        """The module."""
        size = self.subspaces, self.dim, self.width, classes
        return IdResNetModule(*size, self.shared, self.identity, self.channels)


def cifar10_idresnet() -> IdResNet:
    """The network of Qian, An & Su for CIFAR-10: 2,048 numbers beyond those of a point."""
    return IdResNet()


def mnist_idresnet() -> IdResNet:
    """The network for CIFAR-10, for MNIST, of which the paper has no figures."""
    return IdResNet()


def small_idresnet() -> IdResNet:
    """A small IdResNet for images of 32x32."""
    return IdResNet(width=256)


def digits_idresnet() -> IdResNet:
    """The smallest IdResNet, for the digits."""
    return IdResNet(width=64)


class Branch(nn.Module):
    """W relu(x) + b. A ReLU after a W of zeros would have no slope, and nothing would be learnt."""

    shape: tuple[int, ...]  # of what comes out, flattened
    init: Callable

    @nn.compact
    def __call__(self, x):
        features = math.prod(self.shape)
        return nn.Dense(features, kernel_init=self.init, bias_init=self.init)(nn.relu(x))


class Convolution(nn.Module):
    """W * relu(x) + b, a convolution, of images (height, width, channel) that come and go flattened."""

    shape: tuple[int, ...]
    init: Callable

    @nn.compact
    def __call__(self, x):
        image = nn.relu(x).reshape(len(x), *self.shape)
        window = WINDOW, WINDOW
        layer = nn.Conv(self.shape[-1], window, kernel_init=self.init, bias_init=self.init)
        return layer(image).reshape(x.shape)


class IdResNetModule(nn.Module):
    """`(x, train) -> (points, layers)`; layers are ots, dec1, dec2, dec3 and cl, which is the points.

    A point has `dim` numbers for each of the `subspaces`, and there are `classes` of them. Pixels are
    normalised, each by its mean and deviation over the images of `init`, which stay among the
    statistics; then `noise` is added. A linear layer ots makes `width` numbers more than a point has,
    three layers dec go on as x + f(x), and cl keeps the first of its input x as x + f(x). Where
    `shared`, the three have the same weights; where `identity`, all f are zero at first, and without it
    layers are f(x) alone, of random weights: a simple MLP. With `channels` the state is an image of so
    many, in place of `width`, and ots and the f of the three are convolutions.

    Raises ValueError for an image of fewer numbers than a point has.
    """

    subspaces: int
    dim: int
    width: int
    classes: int
    shared: bool = True
    identity: bool = True
    channels: int | None = None

    @nn.compact
    def __call__(self, x, train=False, noise: float | Float[Array, "..."] = 0.0):
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

        branch = Convolution if self.channels else Branch
        layers = {name: branch(shape, init(fan_in), name=name) for name in dict.fromkeys(names)}
        taps = {"ots": x}
        for number, name in enumerate(names, 1):
            x = self._joined(x, layers[name], state)
            taps[f"dec{number}"] = x
        taps["cl"] = self._joined(x, Branch((points,), init(state), name="cl"), points)
        return taps["cl"], taps

    def _joined(self, x, layer, kept):
        return x[:, :kept] + layer(x) if self.identity else layer(x)

    def lipschitz(self, variables: PyTree, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to layer, for the branches of ReLUs.

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
