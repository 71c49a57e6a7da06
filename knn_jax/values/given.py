"""What a caller wrote, read: whole numbers, numbers, arrays and labels, or one line that names them.

People write `k=5`, `k=5.0`, `k=jnp.int32(5)`, arrays of NumPy and of JAX, and lists. All of these are
read here and nowhere else. Nothing is rounded: 2.5 is no whole number, and 1.5 no label.
"""

from collections.abc import Sequence
from typing import SupportsFloat, SupportsInt

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

Whole = SupportsInt  # 3, 3.0, NumPy's and JAX's scalars: what `whole` reads
Real = SupportsFloat  # what `real` reads
Lists = Sequence[object]  # rows as lists: what `array` reads beside arrays


def floats(images: np.ndarray) -> np.ndarray:
    """Bytes, or floats in [0, 1], as float32 in [0, 1]."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return images.astype(np.float32)


def whole(name: str, given: object) -> int:
    """The whole number given, as Python's.

    Raises ValueError for what is none, such as 2.5, NaN or True, and for what is traced.
    """
    if isinstance(given, Tracer):
        raise ValueError(
            f"{name} is traced, and programs are compiled for one {name}: give jit a Python number, as "
            f"by static_argnames={name!r}"
        )
    number = _scalar(given)
    if isinstance(number, int):
        return number
    if isinstance(number, float) and number.is_integer():
        return int(number)
    raise ValueError(f"{name}={_brief(given)}: give a whole number")


def real(name: str, given: object) -> float | Array:
    """The number given, as Python's; one that is traced stays as it is.

    Raises ValueError for what is no number or several.
    """
    if isinstance(given, Tracer):
        if given.shape or not (_is_whole(given) or jnp.issubdtype(given.dtype, np.floating)):
            raise ValueError(f"{name} is {given.dtype} of shape {given.shape}: give one real number")
        return given
    number = _scalar(given)
    if number is None:
        raise ValueError(f"{name}={_brief(given)}: give one real number")
    return float(number)


def _scalar(given: object) -> int | float | None:
    """As Python has it; None for what is no real number, or several."""
    if isinstance(given, bool):
        return None
    if isinstance(given, int | float):
        return given
    if not isinstance(given, np.generic | np.ndarray | jax.Array) or given.shape:
        return None
    if _is_whole(given):
        return int(given)
    return float(given) if jnp.issubdtype(given.dtype, np.floating) else None


def array(name: str, given: object) -> Array | np.ndarray:
    """What is given as an array: those of JAX and NumPy as they are, anything else read by NumPy.

    Raises ValueError for what is no array of numbers.
    """
    if isinstance(given, jax.Array | np.ndarray):
        read = given
    else:
        held = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(given))
        try:
            read = jnp.asarray(given) if held else np.asarray(given)  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} is no array of numbers: {str(error).splitlines()[0]}") from None
    if not jnp.issubdtype(read.dtype, np.number) and read.dtype != bool:
        what = read.dtype if read is given else f"a {type(given).__name__}, read as {read.dtype}"
        raise ValueError(f"{name} is {what}: give an array of numbers, with rows of one length")
    return read


def labels(name: str, given: object) -> Array | np.ndarray:
    """The labels given, whole numbers of any type, as integers of at least 32 bits.

    Raises ValueError for other numbers, and for those of a floating type that are traced.
    """
    read = array(name, given)
    if read.dtype == bool or (_is_whole(read) and read.dtype.itemsize < 4):
        return read.astype(np.int32)
    if _is_whole(read):
        return _signed(read)
    if isinstance(read, Tracer) or not jnp.issubdtype(read.dtype, np.floating):
        raise ValueError(f"{name} are {read.dtype}: give integers")
    found = np.asarray(read, np.float64)
    strange = found[~(np.abs(found) < 2**62) | (found != np.rint(found))]
    if strange.size:
        raise ValueError(f"{name} are {read.dtype}, and {strange[0]} is no whole number: give integers")
    return found.astype(np.int64)


def rows(name: str, given: PyTree) -> PyTree:
    """As `array`, but what only resembles an array stays: rows of a file are not read all at once."""
    return given if hasattr(given, "shape") else array(name, given)


def _is_whole(given: Array | np.ndarray | np.generic) -> bool:
    return bool(jnp.issubdtype(given.dtype, np.integer))


def _signed(read: Array | np.ndarray) -> Array | np.ndarray:
    """Integers without a sign as such that have one, where they fit: the two do not compare."""
    if not jnp.issubdtype(read.dtype, np.unsignedinteger):
        return read
    if isinstance(read, Tracer):
        return read.astype(f"int{8 * read.dtype.itemsize}")
    fits = not read.size or int(np.asarray(read).max()) <= np.iinfo(np.int32).max
    return read.astype(np.int32) if fits else read


def _brief(given: object) -> str:
    text = " ".join(repr(given).split())
    return text if len(text) < 60 else f"{text[:56]} ..."
