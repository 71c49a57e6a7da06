"""Autoencoders whose encoder is a convolutional trunk (paper 1, section 4.1)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from knn_jax.nets.trunk import bound, convolutions, linear, stages


class Autoencoder(nn.Module):
    """`(x, train) -> (reconstruction (batch, pixels), taps)`; taps are relu1, ..., relu4 and latent.

    The convolutions `layers` as in `Trunk`, a hidden layer, and a linear code of `latent` numbers;
    back by a hidden layer and a linear one.
    """

    layers: tuple[tuple[int, int, int, int], ...]
    hidden: int = 400
    latent: int = 128

    @nn.compact
    def __call__(self, x, train=False):
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        code, taps = convolutions(self.layers, x, init)
        last = f"relu{len(self.layers) + 1}"
        taps[last] = nn.relu(linear(code, self.hidden, "fc"))
        taps["latent"] = linear(taps[last], self.latent, "latent")
        back = nn.relu(linear(taps["latent"], self.hidden, "decoder_hidden"))
        return linear(back, x[0].size, "decoder"), taps

    def lipschitz(self, variables: Any, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to tap."""
        path = [*stages(self.layers), (f"relu{len(self.layers) + 1}", "fc", 1), ("latent", "latent", 1)]
        return bound(variables, path, layer)


class VariationalAutoencoder(nn.Module):
    """`(x, train) -> (logits of the pixels (batch, pixels), taps)`; taps are relu1, ..., mean, logvar.

    Given `noise` (batch, latent), standard normal, the code is drawn; without, it is the mean. The
    taps are those of the encoder and do not depend on it.
    """

    layers: tuple[tuple[int, int, int, int], ...]
    hidden: int = 400
    latent: int = 128

    @nn.compact
    def __call__(self, x, train=False, noise=None):
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's, as they had it
        code, taps = convolutions(self.layers, x, init)
        last = f"relu{len(self.layers) + 1}"
        taps[last] = nn.relu(linear(code, self.hidden, "fc"))
        for name in ("mean", "logvar"):
            taps[name] = linear(taps[last], self.latent, name)
        code = taps["mean"]
        if noise is not None:
            code = code + jnp.exp(taps["logvar"] / 2) * noise
        back = nn.relu(linear(code, self.hidden, "decoder_hidden"))
        return linear(back, x[0].size, "decoder"), taps

    def lipschitz(self, variables: Any, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to tap."""
        head = layer if layer in ("mean", "logvar") else "mean"
        path = [*stages(self.layers), (f"relu{len(self.layers) + 1}", "fc", 1), (head, head, 1)]
        return bound(variables, path, layer)
