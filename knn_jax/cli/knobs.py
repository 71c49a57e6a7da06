"""The knobs of a value as flags of the command line, and the value that the flags given make of it."""

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from jaxtyping import PyTree

from knn_jax.neighbors import Metric

T = TypeVar("T")
PLAIN = (int, float, bool, str)


class Flag(NamedTuple):
    """One flag of the command line."""

    name: str
    hint: object
    """Its type, as it is annotated."""
    now: object
    """What it is unless it is given."""
    text: str


class Group(NamedTuple):
    """The flags of a value within another, or of several by name."""

    name: str
    flags: "Sequence[Flag | Group]"
    text: str


def flags(value: object) -> list[Flag | Group]:
    """The knobs of a value: those of nested values within, and only what the command line can say."""
    found = []
    texts, hints = documented(type(value)), typing.get_type_hints(type(value))
    for name, now in vars(value).items():
        hint = hints[name]
        if isinstance(now, Mapping):
            made = ((key, part) for key, part in now.items() if dataclasses.is_dataclass(part))
            parts = (Group(key, flags(part), _title(part)) for key, part in made)
            inner = [part for part in parts if part.flags]
        elif isinstance(now, Metric):
            continue  # another metric is another value
        elif dataclasses.is_dataclass(now):
            inner = flags(now)
        elif is_plain(hint) and name in texts:
            found.append(Flag(name, hint, now, texts[name]))
            continue
        else:
            continue
        if inner:
            found.append(Group(name, inner, _title(now)))
    return found


def listed(known: Sequence[Flag | Group], prefix: str = "") -> Iterator[tuple[str, Flag]]:
    """The flags that take a value, by their dotted names as the command line has them."""
    for flag in known:
        name = f"{prefix}{flag.name}".replace("_", "-")
        if isinstance(flag, Group):
            yield from listed(flag.flags, f"{name}.")
        else:
            yield name, flag


def _title(value: object) -> str:
    """The class of a value, and the first sentence about it."""
    about = first_sentence(inspect.getdoc(type(value)) or "")
    return f"{type(value).__name__}: {about[:1].lower()}{about[1:]}"


def first_sentence(text: str) -> str:
    """The first sentence of a text, in one line and without its full stop."""
    line = " ".join(text.partition("\n\n")[0].split())
    ends = (i for i, (a, b) in enumerate(itertools.pairwise(line)) if a == "." and b == " ")
    end = next((i for i in ends if line[i + 2].isupper() or line[i + 2] in "`("), len(line))
    return line[:end].rstrip(".")


def record(name: str, flags: Sequence[Flag | Group]) -> type:
    """A dataclass of the flags, for tyro to parse."""
    fields = []
    for flag in flags:
        if isinstance(flag, Group):
            made = record(flag.name, flag.flags)
            fields.append((flag.name, made, dataclasses.field(default_factory=made)))
        else:
            fields.append((flag.name, flag.hint, flag.now))
    return dataclasses.make_dataclass(name, fields, frozen=True)


def changed(value: T, given: object, place: str = "") -> T:
    """The value with what the record of its flags says; ValueError, with the place of the part in the
    recipe, for what it refuses."""
    changes = {}
    before, after = vars(value), vars(given)
    for name in before.keys() & after.keys():
        now, new, within = before[name], after[name], f"{place}.{name}".removeprefix(".")
        if isinstance(now, Mapping):
            asked = vars(new)
            changes[name] = {
                key: changed(part, asked[key], f"{within}.{key}") if key in asked else part
                for key, part in now.items()
            }
        elif dataclasses.is_dataclass(now):
            changes[name] = changed(now, new, within)
        elif new != now:
            changes[name] = new
    try:
        return dataclasses.replace(typing.cast(PyTree, value), **changes) if changes else value
    except ValueError as error:
        raise ValueError(f"{place}: {error}" if place else f"{error}") from error


def choices(hint: object) -> tuple[str, ...]:
    """The names of which a knob is one, or several; none for any other knob."""
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    return next((found for part in typing.get_args(hint) if (found := choices(part))), ())


def is_plain(hint: object) -> bool:
    """Whether the command line can say it: numbers, texts, choices, several of these, or none."""
    if hint in PLAIN or hint is types.NoneType:
        return True
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return True
    if origin is tuple:
        return all(
            part is ... or part in PLAIN or typing.get_origin(part) is typing.Literal for part in parts
        )
    return origin in (types.UnionType, typing.Union) and all(map(is_plain, parts))


@functools.cache
def documented(kind: type) -> dict[str, str]:
    """The texts that stand below the fields of a class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        try:
            [tree] = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError):
            continue
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for field, text in itertools.pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[field.target.id] = str(text.value.value)
    return found
