"""Weights that were trained in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from knn_jax.nets.convnet import ConvNetModule
from knn_jax.nets.net import Module
from knn_jax.workdir import files


def load_weights(path: str, module: Module, shape: tuple[int, ...]) -> PyTree:
    """Variables of a `ConvNet` for images of `shape` from an .npz of PyTorch arrays; ValueError if they
    are not this network's."""
    file = files.local("weights", path)
    if not file.is_file():
        raise ValueError(f"weights={path!r}: there is no such file")
    if not isinstance(module, ConvNetModule):
        name = type(module).__name__.removesuffix("Module")
        raise ValueError(f"weights={path!r}: only a ConvNet takes weights, and this is {name}")
    arrays = files.arrays(file)
    try:
        return from_torch(arrays, module, shape)
    except ValueError as error:
        raise ValueError(f"weights={path!r}: it holds no weights of this network ({error})") from error


def from_torch(weights: dict[str, np.ndarray], module: ConvNetModule, shape: tuple[int, ...]):
    """Variables of `module` for images of `shape` from a PyTorch state dict of the same layers, whose
    kernels have their axes in the order output, input, height, width.

    Raises ValueError for names or shapes that are not this network's, and for what is no finite float.
    """
    fresh = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    wanted = {}
    for name, layer in fresh["params"].items():
        *window, inputs, outputs = layer["kernel"].shape
        wanted[f"{name}.weight"] = outputs, inputs, *window
        wanted[f"{name}.bias"] = (outputs,)
    for name in sorted({*wanted} - {*weights}):
        raise ValueError(f"there is no {name}")
    for name in sorted({*weights} - {*wanted}):
        if "." in name:  # a layer's; a loss may have left numbers of its own, such as a temperature
            raise ValueError(f"this network has no {name}")
    for name, expected in wanted.items():
        array = weights[name]
        if array.shape != expected:
            raise ValueError(f"{name} is {array.shape}, and this network's is {expected}")
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"{name} is {array.dtype}: floats needed")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds NaN or infinite numbers")
    params = {}
    for number in range(1, len(module.layers) + 1):
        kernel = np.transpose(weights[f"conv{number}.weight"], (2, 3, 1, 0))
        params[f"conv{number}"] = {"kernel": kernel, "bias": weights[f"conv{number}.bias"]}
    classes, features = weights["fc.weight"].shape
    channels = module.layers[-1][0]
    side = round((features / channels) ** 0.5)
    kernel = weights["fc.weight"].reshape(classes, channels, side, side)
    kernel = np.transpose(kernel, (2, 3, 1, 0)).reshape(features, classes)
    params["fc"] = {"kernel": kernel, "bias": weights["fc.bias"]}
    return {"params": jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), params)}
