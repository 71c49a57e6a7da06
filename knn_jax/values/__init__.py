"""Methods as values: frozen dataclasses that are pytrees, check their own ranges, and turn into JSON.

An attack, a certificate, a defense, a network, a metric, a data set is a value: a class beside the
function it stands for, with one field for each knob. Knobs that are floats are leaves of the pytree, so
that another number needs no new program; all others are static. `given` reads what a caller wrote.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Collection
from typing import TypeVar, dataclass_transform

import jax
import numpy as np
from jax.core import Tracer
from jax.tree_util import GetAttrKey
from jaxtyping import PyTree

from knn_jax.values.given import whole

T = TypeVar("T")
CLASS = "class"  # the key of a value's class in its JSON


@dataclass_transform(frozen_default=True)
def value(cls: type[T]) -> type[T]:
    """Makes a class such a dataclass. Its ranges belong in `__post_init__`, which JAX does not call."""
    hints = typing.get_type_hints(cls)
    _check_whole(cls, [name for name, hint in hints.items() if _is_whole(hint)])
    made = dataclasses.dataclass(frozen=True)(cls)
    typing.no_type_check(made.__init__)  # __post_init__ decides, and numbers may be traced
    names = [field.name for field in dataclasses.fields(typing.cast(PyTree, made))]
    leaves = [name for name in names if _has_floats(hints[name])]
    static = [name for name in names if name not in leaves]

    def flatten(one):
        children = [(GetAttrKey(name), getattr(one, name)) for name in leaves]
        return children, tuple(getattr(one, name) for name in static)

    def unflatten(fixed, children):
        one = object.__new__(made)
        for name, part in (*zip(static, fixed, strict=True), *zip(leaves, children, strict=True)):
            object.__setattr__(one, name, part)
        return one

    jax.tree_util.register_pytree_with_keys(made, flatten, unflatten)
    return made


def _check_whole(cls: type, names: list[str]) -> None:
    """Has values of the class hold an `int` where one is meant, or refuse what is no whole number."""
    others = getattr(cls, "__post_init__", None)

    def check(self):
        for name in names:
            number = getattr(self, name)
            if number is not None:
                object.__setattr__(self, name, whole(name, number))
        if others is not None:
            others(self)

    cls.__post_init__ = check  # pyright: ignore[reportAttributeAccessIssue]


def _is_whole(hint: object) -> bool:
    parts = set(typing.get_args(hint)) - {types.NoneType}
    return hint is int or (parts == {int} and typing.get_origin(hint) is not tuple)


def _has_floats(hint: object) -> bool:
    return hint is float or any(_has_floats(part) for part in typing.get_args(hint))


def at_least(least: int | float, **numbers: object) -> None:
    """Raises ValueError unless all are finite and at least that; what is traced, or None, is let be."""
    _check(lambda number: number >= least, f"at least {least:g}", numbers)


def above(bound: int | float, **numbers: object) -> None:
    """Raises ValueError unless all are finite and above that; what is traced, or None, is let be."""
    _check(lambda number: number > bound, f"above {bound:g}", numbers)


def below(bound: int | float, **numbers: object) -> None:
    """Raises ValueError unless all are finite and below that; what is traced, or None, is let be."""
    _check(lambda number: number < bound, f"below {bound:g}", numbers)


def between(low: int | float, high: int | float, **numbers: object) -> None:
    """Raises ValueError unless all are from low to high; what is traced, or None, is let be."""
    _check(lambda number: (number >= low) & (number <= high), f"from {low:g} to {high:g}", numbers)


def one_of(choices: Collection[object], **names: object) -> None:
    """Raises ValueError unless all are among the choices."""
    for name, chosen in names.items():
        if chosen not in choices:
            raise ValueError(f"{name}={chosen!r}: use {', '.join(map(repr, choices))}")


def _check(allowed, what: str, numbers: dict[str, object]) -> None:
    for name, number in numbers.items():
        for one in number if isinstance(number, tuple) else (number,):
            if one is None or isinstance(one, Tracer):
                continue
            array = np.asarray(one)  # numpy's: in a caller's jit even constants would be traced
            if array.dtype.kind not in "biuf":
                raise ValueError(f"{name}={number!r}: give a number")
            if not np.all(allowed(array) & np.isfinite(array)):
                finite = "" if np.isfinite(array).all() else "finite and "
                raise ValueError(f"{name}={number}: it must be {finite}{what}")


def arrays(one: T) -> T:
    """The value with its floats as arrays in float32, for a program that serves any of them."""

    def array(leaf):
        return jax.numpy.asarray(leaf, jax.numpy.float32)

    return jax.tree.map(array, one)


def told(one: PyTree) -> dict[str, object]:
    """A value as JSON has it: its class beside its knobs, tuples as lists, infinity as a text."""
    knobs = {field.name: _told(getattr(one, field.name)) for field in dataclasses.fields(one)}
    return {CLASS: type(one).__name__, **knobs}


def _told(knob: object) -> object:
    if dataclasses.is_dataclass(knob) and not isinstance(knob, type):
        return told(knob)
    if isinstance(knob, dict | types.MappingProxyType):
        return {key: _told(part) for key, part in knob.items()}
    if isinstance(knob, list | tuple):
        return [_told(part) for part in knob]
    if isinstance(knob, float) and not math.isfinite(knob):
        return str(knob)
    return knob


def defaults(one: PyTree) -> dict[str, object]:
    """The knobs of a value as `told` has them, each as it is unless it is given; of values within
    theirs. Those that must be given are left out."""
    found = {}
    for field in dataclasses.fields(one):
        now, usual = getattr(one, field.name), field.default
        if dataclasses.is_dataclass(now):
            same = {CLASS: type(now).__name__} if type(usual) is type(now) else {}
            found[field.name] = defaults(now) | same
        elif usual is not dataclasses.MISSING:
            found[field.name] = _told(usual)
    return found
