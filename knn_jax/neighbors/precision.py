"""How wrong sums of floating-point numbers may be: what a bound on distances must allow for."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array

Coarse = Literal["bfloat16", "tensorfloat32"]
UNIT = {"bfloat16": 2.0**-8, "tensorfloat32": 2.0**-10}  # relative error of a number cut short
BLOCK = 128  # dimensions that are summed first


def check_coarse(coarse: str | None) -> None:
    """Raises ValueError for an unknown precision."""
    if coarse is not None and coarse not in UNIT:
        raise ValueError(f"coarse={coarse!r} is none of {', '.join(UNIT)}")


def rounding(x: Array) -> float:
    """Error of a sum over the last axis, relative to the sum of magnitudes, in any order (gamma_D);
    with 8 roundings of each term."""
    return _gamma(x, x.shape[-1])


def of_product(mode: str) -> float:
    """Error of a product of two rounded numbers, relative."""
    return 2.1 * UNIT.get(mode, 0.0)


def half(x, mode: str) -> float:
    """Of |a|^2 and |b|^2, less the errors that these and <a, b> <= (|a|^2 + |b|^2) / 2 may have."""
    return 0.5 - _summed(x, mode) - of_product(mode) / 2


def flushed(x) -> float:
    """What 2 <q, b>, |q|^2 and |b|^2 may lack because products below the least number became zero."""
    return 16 * x.shape[-1] * float(finfo(x).tiny)


def finfo(x):
    """The limits of an array's floating type."""
    return jnp.finfo(x.dtype)


def _summed(x, mode: str) -> float:
    """`rounding` of a sum of squares, and of a product, in that mode."""
    dim = x.shape[-1]
    return _gamma(x, min(dim, BLOCK) + -(-dim // BLOCK) if mode == "centred" else dim)


def _gamma(x, terms: int) -> float:
    return (terms + 8) * float(jnp.finfo(x.dtype).eps) / 2
