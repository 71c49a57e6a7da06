"""Networks as pure functions `(x, train) -> (output, taps)`; the only place that imports flax.

`train` is for networks that normalise their layers: False, or which examples of the batch count.
"""

import dataclasses
import difflib
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from knn_jax import config, losses
from knn_jax.nets import (
    autoencoder,
    idresnet,
    lipschitz,
    preact_resnet,
    prototypes,
    racnn,
    resnet,
    strided,
    trunk,
    vgg,
)


class Pixels(nn.Module):
    """The identity: its one tap, pixels, is the flattened image. It has no parameters."""

    @nn.compact
    def __call__(self, x, train=False):
        flat = x.reshape(x.shape[0], -1)
        return flat, {"pixels": flat}

    def lipschitz(self, variables: Any, layer: str) -> float:
        """1: distances are the images' own."""
        return 1.0


def build(knobs: config.Net, classes: int) -> Any:
    """The network that the recipe names."""
    if knobs.name == "pixels":
        return Pixels()
    size, _, kind = knobs.name.partition("_")
    if kind == "strided":
        return strided.Strided(strided.SIZES[size], strided.HIDDEN[size], classes)
    if kind == "racnn":
        return (racnn.frozen if knobs.frozen else racnn.convolutional)(size, classes)
    if kind == "vgg":
        blocks, hidden = vgg.SIZES[size]
        return vgg.VGG(blocks, hidden, classes)
    if kind == "resnet18":
        return resnet.of_size(size, classes, knobs.half)
    if kind == "resnet":
        stages, mean, std = preact_resnet.SIZES[size]
        return preact_resnet.PreActResNet(stages, classes, mean, std)
    if kind == "idresnet":
        own = knobs.subspaces, knobs.dim, idresnet.WIDTHS[size], classes
        branch = idresnet.Convolution if knobs.channels else idresnet.Branch
        return idresnet.IdResNet(*own, knobs.shared, knobs.identity, branch, knobs.channels)
    layers = trunk.LAYERS[size]
    match kind:
        case "lipschitz":
            stages = lipschitz.STAGES[size]
            return lipschitz.LipschitzAutoencoder(stages, sweeps=knobs.sweeps)
        case "autoencoder":
            return autoencoder.Autoencoder(layers)
        case "vae":
            return autoencoder.VariationalAutoencoder(layers)
        case _:
            return trunk.Trunk(layers, classes)


def repulsive(knobs: config.Net, classes: int, dim: int, distance: losses.Distance) -> Any:
    """The recipe's network with `dim` outputs, 0: ten a class, judged by fixed prototypes."""
    body = build(knobs, dim or prototypes.DIMS * classes)
    return prototypes.Prototypes(body, classes, distance)


def prototyped(knobs: config.Net, classes: int, count: int, layers: tuple[str, ...]) -> Any:
    """The network that the recipe names with `count` prototypes of each class, which are trained, in a
    layer, or in its output."""
    return prototypes.Prototypes(build(knobs, classes), classes, count=count, tap="".join(layers))


def retriever(knobs: config.Net) -> config.Net:
    """Of the network by whose features that of the recipe, one for racnn, retrieves."""
    kind = "_resnet18" if knobs.frozen else "_strided"
    return dataclasses.replace(knobs, name=knobs.name.replace("_racnn", kind))


def load_weights(path: str, net: Any, shape: tuple[int, ...]) -> Any:
    """Variables of a trunk for images of `shape` from an .npz of PyTorch arrays; ValueError if they are
    not this net's."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"net.weights: there is no file {file}")
    if not isinstance(net, trunk.Trunk):
        raise ValueError(f"net.weights: {type(net).__name__} takes no weights")
    try:
        with np.load(file) as arrays:
            return trunk.from_torch(dict(arrays), net, shape)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"net.weights: {file} holds no weights of this network ({error})") from error


def taps(net: Any, variables: Any, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The net's layers and the shape of each for images of `shape`; nothing is computed."""
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    found = jax.eval_shape(net.apply, variables, image)[1]
    return {name: tap.shape for name, tap in found.items()}


def features(net: Any, variables: Any, layers: tuple[str, ...], shape: tuple[int, ...]) -> Partial:
    """A function from images to a tuple, (batch, dim) of each layer, all in one pass of the net; a
    pytree that carries the variables.

    Raises ValueError for a layer that the net does not have.
    """
    known = taps(net, variables, shape)
    for layer in layers:
        if layer not in known:
            near = difflib.get_close_matches(layer, known, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"no layer {layer!r}{hint}: this network's are {', '.join(known)}")
    return Partial(_Taps(net, layers), variables)


def output(net: Any, variables: Any) -> Partial:
    """The net's output, images -> (batch, dim), as a pytree that carries the variables."""
    return Partial(_Output(net), variables)


def answering(net: Any, variables: Any) -> tuple[Partial, Partial]:
    """Of a net for racnn its features phi and its answer, see `classifiers.retrieval`."""
    return Partial(_Embedding(net), variables), Partial(_Answer(net), variables)


@dataclasses.dataclass(frozen=True)
class _Answer:
    """The answer among neighbours as a function, equal for equal nets."""

    net: Any

    def __call__(self, variables, query, values, nearness):
        return self.net.apply(variables, query, values, nearness, method="answer")


@dataclasses.dataclass(frozen=True)
class _Output:
    """The last layer as a function, equal for equal nets."""

    net: Any

    def __call__(self, variables, x):
        return self.net.apply(variables, x)[0]


@dataclasses.dataclass(frozen=True)
class _Embedding:
    """The features among which is answered as a function, equal for equal nets."""

    net: Any

    def __call__(self, variables, x):
        return self.net.apply(variables, x)[1]["embedding"]


@dataclasses.dataclass(frozen=True)
class _Taps:
    """Layers as a function, equal for equal nets: programs compiled for it are found again."""

    net: Any
    layers: tuple[str, ...]

    def __call__(self, variables, x):
        found = self.net.apply(variables, x)[1]
        return tuple(found[layer] for layer in self.layers)
