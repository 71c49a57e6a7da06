"""Layers and outputs of a network as functions of images that carry its variables."""

import dataclasses
import difflib

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import PyTree

from knn_jax.nets.net import Module


def taps(module: Module, variables: PyTree, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The network's layers and the shape of each for images of `shape`; nothing is computed."""
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    found = jax.eval_shape(module.apply, variables, image)[1]
    return {name: layer.shape for name, layer in found.items()}


def features(
    module: Module, variables: PyTree, layers: tuple[str, ...], shape: tuple[int, ...]
) -> Partial:
    """A function from images to a tuple, (batch, dim) of each layer, all in one pass of the network; a
    pytree that carries the variables.

    Raises ValueError for a layer that the network does not have.
    """
    _shapes(module, variables, layers, shape)
    return Partial(_Layers(module, layers), variables)


def layer_shapes(
    module: Module, layers: tuple[str, ...], shape: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """The shape of each layer for images of `shape`, before the network is trained; ValueError as
    `features`, and nothing is computed."""
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    return _shapes(module, variables, layers, shape)


def _shapes(module, variables, layers, shape):
    known = taps(module, variables, shape)
    for layer in layers:
        if layer not in known:
            near = difflib.get_close_matches(layer, known, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"no layer {layer!r}{hint}: this network's are {', '.join(known)}")
    return tuple(known[layer] for layer in layers)


def output(module: Module, variables: PyTree) -> Partial:
    """The network's output, images -> (batch, dim), as a pytree that carries the variables."""
    return Partial(_Output(module), variables)


@dataclasses.dataclass(frozen=True)
class _Output:
    """The output as a function, equal for equal modules."""

    module: Module

    def __call__(self, variables, x):
        return self.module.apply(variables, x)[0]


@dataclasses.dataclass(frozen=True)
class _Layers:
    """Layers as a function, equal for equal modules: programs compiled for it are found again."""

    module: Module
    layers: tuple[str, ...]

    def __call__(self, variables, x):
        found = self.module.apply(variables, x)[1]
        return tuple(found[layer] for layer in self.layers)
