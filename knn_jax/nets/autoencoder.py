"""Autoencoders whose encoder is a convolutional trunk (paper 1, section 4.1)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from knn_jax.nets.trunk import HE, bound, convolutions, linear, stages


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
        taps = encoded(self, x, HE, "latent")
        return decoded(self, x, taps["latent"]), taps

    def lipschitz(self, variables: Any, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to tap."""
        return bound(variables, path(self, "latent"), layer)


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
        taps = encoded(self, x, init, "mean", "logvar")
        code = taps["mean"]
        if noise is not None:
            code = code + jnp.exp(taps["logvar"] / 2) * noise
        return decoded(self, x, code), taps

    def lipschitz(self, variables: Any, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to tap."""
        return bound(variables, path(self, layer if layer == "logvar" else "mean"), layer)


def encoded(net, x, init, *codes: str):
    """Inside a module: the taps of the convolutions, the hidden layer and the codes."""
    flat, taps = convolutions(net.layers, x, init)
    hidden = nn.relu(linear(flat, net.hidden, "fc"))
    taps[f"relu{len(net.layers) + 1}"] = hidden
    return taps | {code: linear(hidden, net.latent, code) for code in codes}


def decoded(net, x, code):
    """Inside a module: as many numbers as x has pixels."""
    return linear(nn.relu(linear(code, net.hidden, "decoder_hidden")), x[0].size, "decoder")


def path(net, code: str):
    """The layers up to a code, for `bound`."""
    return [*stages(net.layers), (f"relu{len(net.layers) + 1}", "fc", 1), (code, code, 1)]
