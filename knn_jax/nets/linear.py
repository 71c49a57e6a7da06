"""Linear layers as PyTorch begins them, and the norm of a kernel."""

import flax.linen as nn
import numpy as np

from knn_jax.nets.convolution import torch_uniform


def linear(x, features: int, name: str):
    """Inside a module: a linear layer with PyTorch's initialisation."""
    init = torch_uniform(x.shape[1])
    return nn.Dense(features, kernel_init=init, bias_init=init, name=name)(x)


def spectral(kernel) -> float:
    """The spectral norm of a kernel as a matrix, rounded up."""
    matrix = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])
    return float(np.linalg.norm(matrix, 2)) * (1 + 1e-6)
