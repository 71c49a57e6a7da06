"""Strict settings for every test: dtypes, ranks, four devices; jaxtyping's shapes are checked."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# XLA's newer emitters of fused loops take most of the time to compile; see compiled.AS_USERS.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
)

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hook = install_import_hook("knn_jax", "beartype.beartype")

import pytest  # noqa: E402

from knn_jax import compiled, config  # noqa: E402

compiled.keep(brief=0.0)  # programs run for milliseconds here and compile for seconds


@pytest.fixture(scope="module")
def quick():
    """Programs run for milliseconds here and compile for seconds: XLA optimises them little."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def trains():
    """optax.adam mixes types, which the tests forbid elsewhere."""
    with jax.numpy_dtype_promotion("standard"):
        yield


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
