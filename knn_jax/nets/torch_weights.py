"""Weights that were trained in PyTorch."""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from knn_jax.nets.net import Module
from knn_jax.workdir import files

KINDS = {  # what PyTorch calls the arrays of a layer
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


@runtime_checkable
class InTorch(Module, Protocol):
    """A module of layers that PyTorch has too."""

    def torch_names(self) -> dict[str, str]:
        """PyTorch's name of each layer, by its path in the variables; convolutions in their order."""
        ...


def load_weights(path: str, module: Module, shape: tuple[int, ...]) -> PyTree:
    """Variables of a network for images of `shape` from an .npz of PyTorch arrays; ValueError if they
    are not this network's, or it has no names in PyTorch."""
    file = files.local("weights", path)
    if not file.is_file():
        raise ValueError(f"weights={path!r}: there is no such file")
    if not isinstance(module, InTorch):
        name = type(module).__name__.removesuffix("Module")
        raise ValueError(
            f"weights={path!r}: a ConvNet or a ResNet takes weights of PyTorch, and this is {name}"
        )
    arrays = files.arrays(file)
    try:
        return from_torch(arrays, module, shape)
    except ValueError as error:
        raise ValueError(f"weights={path!r}: it holds no weights of this network ({error})") from error


def from_torch(weights: dict[str, np.ndarray], module: InTorch, shape: tuple[int, ...]) -> PyTree:
    """Variables of `module` for images of `shape` from a PyTorch state dict of the same layers, whose
    kernels have their axes in the order output, input, height, width.

    Raises ValueError for names or shapes that are not this network's, and for what is no finite float.
    """
    fresh = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    leaves, structure = jax.tree_util.tree_flatten_with_path(fresh)
    names, wanted, channels = module.torch_names(), {}, 0
    for path, leaf in leaves:
        _, *layer, kind = (key.key for key in path)
        *window, inputs, outputs = leaf.shape if kind == "kernel" else (*leaf.shape, 0, 0)
        expected = (outputs, inputs, *window) if kind == "kernel" else leaf.shape
        wanted[f"{names['/'.join(layer)]}.{KINDS[kind]}"] = expected
    for name in names.values():
        expected = wanted.get(f"{name}.weight", ())
        channels = expected[0] if len(expected) == 4 else channels
    check(weights, wanted)
    arrays = [_as_ours(weights[name], channels) for name in wanted]
    return jax.tree.unflatten(structure, [jnp.asarray(array, jnp.float32) for array in arrays])


def check(weights: dict[str, np.ndarray], wanted: dict[str, tuple[int, ...]]) -> None:
    """Raises ValueError unless there are just the arrays wanted, in their shapes, of finite floats."""
    for name in sorted({*wanted} - {*weights}):
        raise ValueError(f"there is no {name}")
    for name in sorted({*weights} - {*wanted}):
        # A loss may have left numbers of its own without a layer, such as a temperature.
        if "." in name and not name.endswith(".num_batches_tracked"):
            raise ValueError(f"this network has no {name}")
    for name, expected in wanted.items():
        array = weights[name]
        if array.shape != expected:
            raise ValueError(f"{name} is {array.shape}, and this network's is {expected}")
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"{name} is {array.dtype}: floats needed")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds NaN or infinite numbers")
        if name.endswith(".running_var") and array.min() < 0:
            raise ValueError(f"{name} holds {array.min():g}: variances are not negative")


def _as_ours(array: np.ndarray, channels: int) -> np.ndarray:
    """With inputs before outputs. A dense layer after convolutions of so many channels reads them pixel
    by pixel here, and channel by channel there."""
    if array.ndim == 4:
        return np.transpose(array, (2, 3, 1, 0))
    if array.ndim == 2:
        outputs, inputs = array.shape
        channels = channels or inputs
        return array.reshape(outputs, channels, -1).transpose(2, 1, 0).reshape(inputs, outputs)
    return array
