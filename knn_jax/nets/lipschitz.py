"""An autoencoder whose encoder cannot move two images further apart than they are."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from knn_jax import values
from knn_jax.nets.linear import linear
from knn_jax.nets.net import Net

Stages = tuple[tuple[int, int], ...]


@values.value
class LipschitzAutoencoder(Net):
    """An autoencoder whose encoder is 1-Lipschitz in L2: it moves no two images further apart."""

    stages: Stages
    """Channels, and side of the patches in pixels, of each stage of the encoder."""
    bottleneck: int = 128
    """Numbers in the code."""
    hidden: int = 400
    """Numbers in the hidden layer of the decoder."""
    sweeps: int = 12
    """Sweeps that bring each matrix of norm 1 at most near to an isometry; 0: none."""

    classifies = False

    def __post_init__(self):
        values.at_least(0, sweeps=self.sweeps)

    def build(self, classes: int) -> "LipschitzAutoencoderModule":
        """The module."""
        return LipschitzAutoencoderModule(self.stages, self.bottleneck, self.hidden, self.sweeps)


def mnist_lipschitz_autoencoder() -> LipschitzAutoencoder:
    """For MNIST: bottleneck and relu1 take the place of the layers of Sitawarin & Wagner 2019, 6.1."""
    return LipschitzAutoencoder(((32, 4), (64, 2), (128, 2)))


def digits_lipschitz_autoencoder() -> LipschitzAutoencoder:
    """A small one for images of 8x8."""
    return LipschitzAutoencoder(((16, 2), (32, 2)))


class LipschitzAutoencoderModule(nn.Module):
    """`(x, train) -> (reconstruction (batch, pixels), layers)`; layers are relu1, ... and bottleneck.

    Each stage (channels, size) cuts the image into patches of `size` pixels a side, maps each by one
    matrix of norm 1 at most, and parts every number into its positive and its negative half, which
    makes 2 x channels. Patches do not overlap, so a stage is 1-Lipschitz. The bottleneck is one such
    matrix, the decoder is free. `sweeps` brings the matrices near to isometries, see `contracting`.
    """

    stages: Stages
    bottleneck: int
    hidden: int
    sweeps: int

    @nn.compact
    def __call__(self, x, train=False):
        taps, pixels = {}, x[0].size
        for number, (channels, size) in enumerate(self.stages, 1):
            x = Contraction(channels, self.sweeps, name=f"stage{number}")(patches(x, size))
            x = jnp.concatenate([nn.relu(x), nn.relu(-x)], -1)
            taps[f"relu{number}"] = x.reshape(len(x), -1)
        taps["bottleneck"] = Contraction(self.bottleneck, self.sweeps, name="bottleneck")(
            x.reshape(len(x), -1)
        )
        back = nn.relu(linear(taps["bottleneck"], self.hidden, "decoder_hidden"))
        return linear(back, pixels, "decoder"), taps

    def lipschitz(self, variables: PyTree, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to layer: 1, but for rounding."""
        product = 1.0
        for number in range(1, len(self.stages) + 1):
            product *= _norm(variables["params"][f"stage{number}"], self.sweeps)
            if layer == f"relu{number}":
                return product
        return product * _norm(variables["params"]["bottleneck"], self.sweeps)


class Contraction(nn.Module):
    """A linear layer whose matrix has norm 1 at most, and a bias."""

    features: int
    sweeps: int

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.orthogonal(), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return x @ contracting(kernel, self.sweeps) + bias.reshape((1,) * (x.ndim - 1) + (-1,))


def contracting(matrix, sweeps: int):
    """The matrix over a bound of its norm, then `sweeps` times M (3 - M'M) / 2.

    The bound is the root of the lesser of the largest row sums of |M'M| and |MM'| (Qian & Wegman 2019).
    A sweep takes each singular value s in [0, 1] to s (3 - s^2) / 2, nearer to 1 and never above it
    (Bjorck & Bowie 1971; Anil et al. 2019): 1-Lipschitz after any number, an isometry in the limit.
    """
    if matrix.shape[0] < matrix.shape[1]:
        return contracting(matrix.T, sweeps).T
    sums = (jnp.abs(gram).sum(1).max() for gram in (matrix.T @ matrix, matrix @ matrix.T))
    matrix = matrix / jnp.sqrt(jnp.minimum(*sums))
    for _ in range(sweeps):
        matrix = 1.5 * matrix - 0.5 * matrix @ (matrix.T @ matrix)
    return matrix


def patches(x, size: int):
    """(batch, height, width, channel) to patches of `size` pixels a side, their pixels as channels.

    The image is filled up with zeros below and on the right.
    """
    batch, height, width, channels = x.shape
    rows, columns = -(-height // size), -(-width // size)
    x = jnp.pad(x, ((0, 0), (0, rows * size - height), (0, columns * size - width), (0, 0)))
    x = x.reshape(batch, rows, size, columns, size, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows, columns, size**2 * channels)


def _norm(parameters, sweeps: int) -> float:
    """Of the matrix as it is used, rounded up."""
    matrix = np.asarray(contracting(jnp.asarray(parameters["kernel"]), sweeps), np.float64)
    return float(np.linalg.norm(matrix, 2)) * (1 + 1e-6)
