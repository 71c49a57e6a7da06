"""Strict settings for every test: dtypes, ranks, four devices; jaxtyping's shapes are checked."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hook = install_import_hook("knn_jax", "beartype.beartype")

import pytest  # noqa: E402

from knn_jax import config  # noqa: E402


@pytest.fixture
def recipe():
    """The digits in miniature: one epoch, few images, few steps."""
    return config.Config(
        name="tiny",
        optim=config.Optim(epochs=1),
        classifier=config.Classifier(layers=("relu3",), k=5),
        attack=config.Attack(images=6, steps=4, starts=2, chunk=4),
        certify=config.Certify(other=64, chunk=8),
    )
