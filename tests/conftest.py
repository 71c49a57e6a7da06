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

from knn_jax import attacks, certificates, data, defenses, nets, training  # noqa: E402
from knn_jax.recipe import Evaluate, Recipe, fit  # noqa: E402
from knn_jax.workdir import programs  # noqa: E402

programs.keep(brief=0.0)  # programs run for milliseconds here and compile for seconds


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


@pytest.fixture(scope="session")
def recipe():
    """The digits in miniature: one epoch, few images, few steps."""
    return Recipe(
        name="tiny",
        data=data.Digits(),
        defense=defenses.CrossEntropy(nets.digits_convnet()),
        optim=training.Optim(epochs=1),
        classifier=fit.KNN(layers=("relu3",), k=5, rows=200),
        attacks={"minimum_norm": attacks.MinimumNorm(steps=4, starts=2)},
        certificates={"margin": certificates.Margin(), "voronoi": certificates.Voronoi(other=64)},
        evaluate=Evaluate(images=6, chunk=4, certified_chunk=8),
    )
