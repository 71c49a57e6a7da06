"""The machine that something is measured on: what it is, and the rates that it reaches."""

import contextlib
import os
import platform
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from timing import Compiled, in_rounds

PACKAGES = (
    *("knn_jax", "jax", "jaxlib", "numpy", "scikit-learn", "torch", "triton", "foolbox"),
    *("faiss-cpu", "faiss-gpu", "cuvs-cu12", "cuvs-cu13", "certex", "flashlib"),
)
VECTORS = {"avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni"}  # by which matmuls differ


def hardware() -> dict[str, str | float | None]:
    """The first device, the processor and the memory."""
    device = jax.devices()[0]
    cpus, flags = [], set()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpus = [line for line in lines if "model name" in line]
        flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cpu": cpus[0].split(":")[1].strip() if cpus else platform.processor(),
        "vectors": ", ".join(sorted(flags & VECTORS)),
        "cpu_cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "machine": platform.machine(),
        "load": os.getloadavg()[0],  # of the minute before: what else ran here
    }


def versions() -> dict[str, str]:
    """Python's version, and those of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def rates(
    size: int, floats: int, modes: tuple[str, ...] = ("float32",), seconds: float = 1.0
) -> dict[str, float]:
    """The rates of a square matmul in each of the modes, and of a copy of so many floats.

    TFLOP/s as `float32_tflops`, and GB/s, both read and written, as `copy_gb_s`.
    """
    square = jax.random.normal(jax.random.key(0), (size, size))  # zeros would be faster than numbers
    long = jnp.ones(floats)
    runs: dict[str, Compiled] = {
        mode: Compiled(lambda a, b, mode=mode: product(a, b, mode), square, square) for mode in modes
    }
    runs["copy"] = Compiled(jnp.negative, long)  # a plain copy might be optimised away
    for run in runs.values():
        jax.block_until_ready(run())
    medians = {name: float(np.median(times)) for name, times in in_rounds(runs, seconds).items()}
    found = {f"{mode}_tflops": 2e-12 * size**3 / medians[mode] for mode in modes}
    return found | {"copy_gb_s": 2e-9 * long.nbytes / medians["copy"]}


def product(a: jax.Array, b: jax.Array, mode: str) -> jax.Array:
    """The matmul in float32, with inputs cut to bfloat16, or by TensorFloat32 where a device has it."""
    if mode == "bfloat16":
        a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
        return jnp.matmul(a, b, preferred_element_type=jnp.float32)
    precision = jax.lax.Precision.DEFAULT if mode == "tensorfloat32" else jax.lax.Precision.HIGHEST
    return jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32), precision=precision)
