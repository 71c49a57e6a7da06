"""Autoencoders whose encoder is a convolutional network (Sitawarin & Wagner 2019, section 4.1)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import PyTree

from knn_jax import values
from knn_jax.nets.convnet import DIGITS, HE, MNIST, Layers, bound, convolutions, stages
from knn_jax.nets.linear import linear
from knn_jax.nets.net import Net


@values.value
class _Coder(Net):
    """The parts of both: convolutions, a hidden layer, a linear code, and a decoder of two layers."""

    layers: Layers
    """Channels, window, stride and padding of each convolution of the encoder."""
    hidden: int = 400
    """Numbers in the hidden layer of the encoder and in that of the decoder."""
    latent: int = 128
    """Numbers in the code."""

    classifies = False


@values.value
class Autoencoder(_Coder):
    """An autoencoder: convolutions and a linear code, and a decoder of two layers."""

    def build(self, classes: int) -> "AutoencoderModule":
        """The module."""
        return AutoencoderModule(self.layers, self.hidden, self.latent)


@values.value
class VAE(_Coder):
    """A variational autoencoder: an autoencoder whose code is drawn around its mean."""

    def build(self, classes: int) -> "VAEModule":
        """The module."""
        return VAEModule(self.layers, self.hidden, self.latent)


def mnist_autoencoder() -> Autoencoder:
    """That of Sitawarin & Wagner 2019, with the convolutions of `mnist_convnet`."""
    return Autoencoder(MNIST)


def digits_autoencoder() -> Autoencoder:
    """For images of 8x8, with the convolutions of `digits_convnet`."""
    return Autoencoder(DIGITS)


def mnist_vae() -> VAE:
    """That of Sitawarin & Wagner 2019, with the convolutions of `mnist_convnet`."""
    return VAE(MNIST)


def digits_vae() -> VAE:
    """For images of 8x8, with the convolutions of `digits_convnet`."""
    return VAE(DIGITS)


class AutoencoderModule(nn.Module):
    """`(x, train) -> (reconstruction (batch, pixels), layers)`: relu1, ..., relu4 and latent."""

    layers: Layers
    hidden: int
    latent: int

    @nn.compact
    def __call__(self, x, train=False):
        taps = encoded(self, x, HE, "latent")
        return decoded(self, x, taps["latent"]), taps

    def lipschitz(self, variables: PyTree, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to layer."""
        return bound(variables, path(self, "latent"), layer)


class VAEModule(nn.Module):
    """`(x, train) -> (logits of the pixels (batch, pixels), layers)`: relu1, ..., mean and logvar.

    Given `noise` (batch, latent), standard normal, the code is drawn; without, it is the mean. The
    layers are those of the encoder and do not depend on it.
    """

    layers: Layers
    hidden: int
    latent: int

    @nn.compact
    def __call__(self, x, train=False, noise=None):
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's, as they had it
        taps = encoded(self, x, init, "mean", "logvar")
        code = taps["mean"]
        if noise is not None:
            code = code + jnp.exp(taps["logvar"] / 2) * noise
        return decoded(self, x, code), taps

    def lipschitz(self, variables: PyTree, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to layer."""
        return bound(variables, path(self, layer if layer == "logvar" else "mean"), layer)


def encoded(net, x, init, *codes: str):
    """The outputs of the convolutions, the hidden layer and the codes; called inside a module."""
    flat, taps = convolutions(net.layers, x, init)
    hidden = nn.relu(linear(flat, net.hidden, "fc"))
    taps[f"relu{len(net.layers) + 1}"] = hidden
    return taps | {code: linear(hidden, net.latent, code) for code in codes}


def decoded(net, x, code):
    """The decoded image, as many numbers as x has pixels; called inside a module."""
    return linear(nn.relu(linear(code, net.hidden, "decoder_hidden")), x[0].size, "decoder")


def path(net, code: str):
    """The layers up to a code, for `bound`."""
    return [*stages(net.layers), (f"relu{len(net.layers) + 1}", "fc", 1), (code, code, 1)]
