"""The folder of a run: whose network it holds, of which data, and one run in it at a time."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jax.typing import ArrayLike

from knn_jax.display import progress
from knn_jax.workdir import files, lock
from knn_jax.workdir.files import Place

TRAINS = ("data", "defense", "optim")  # parts of a recipe that decide the trained network
CONFIG = "config.json"
DIGEST = "data_digest"  # in it, beside the recipe
GROWS = "optim.epochs"  # may be more than it was: training goes on
# Where files lie; weights are known by their content.
FREE = ("data.path", "data.data_dir", "defense.weights", "defense.retriever_weights")


def check(path: str) -> None:
    """Raises ValueError, before anything is read or made, for a workdir in a bucket that cannot be
    written, in any other store, and for one that another run is using."""
    lock.check(files.place("workdir", path))


@contextlib.contextmanager
def claim(
    path: str,
    recipe: Mapping[str, object],
    data_digest: str,
    *,
    grows: bool = True,
    defaults: Mapping[str, object] | None = None,
) -> Iterator[Place]:
    """The folder, made if need be, with the recipe in its config.json, held against other runs.

    `recipe` is as `values.told` has it, `defaults` as `values.defaults`: a knob that there was not yet
    when the folder was made was at its default. Of several processes the first claims the folder for
    all. Raises ValueError where it cannot be written, where another run holds it,
    and where it holds another network: one whose images or labels, or whose data, defense or
    optimisation differ, but for more epochs if training `grows` by them.
    """
    folder = files.place("workdir", path)
    with contextlib.ExitStack() as stack:
        try:
            if isinstance(folder, Path):
                folder.mkdir(parents=True, exist_ok=True)
            if stack.enter_context(lock.held(folder)):
                files.sweep(folder)
            else:
                progress.say(f"no locks on this file system: keep other runs out of {folder}")
        except OSError as error:
            raise ValueError(f"workdir {folder} cannot be written: {error.strerror}") from error
        told = {**recipe, DIGEST: data_digest}
        _compare(folder, told, grows, flat(defaults or {}))
        with files.whole(folder / CONFIG) as scratch:
            scratch.write_text(json.dumps(told, indent=2) + "\n")
        yield folder


def claimed(path: str, recipe: Mapping[str, object], data_digest: str) -> Place:
    """The folder that the first process of this run has claimed, as another of them sees it.

    Raises ValueError where it is not the same folder: all need one file system for it.
    """
    folder = files.place("workdir", path)
    try:
        seen = json.loads(files.text(folder / CONFIG))
    except (OSError, json.JSONDecodeError):
        seen = None
    if seen != json.loads(json.dumps({**recipe, DIGEST: data_digest})):
        where = folder.absolute() if isinstance(folder, Path) else folder
        raise ValueError(f"workdir {where} is not that of process 0: give one that all workers share")
    return folder


def _compare(folder: Place, told: dict[str, object], grows: bool, defaults: dict[str, object]) -> None:
    """Raises ValueError if the folder holds another network than that of the recipe and the data."""
    file = folder / CONFIG
    try:
        before = json.loads(files.text(file))
        if "net" in before:
            raise ValueError(
                f"{folder} is of knn_jax 0.1, whose recipes had other knobs: use another --workdir"
            )
        earlier = flat({part: before[part] for part in TRAINS})
        data = before[DIGEST]
    except FileNotFoundError:
        return
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{file} is damaged: use another --workdir") from error
    now = flat({part: told[part] for part in TRAINS})
    for field in dict.fromkeys((*now, *earlier)):
        new, old = now.get(field), earlier.get(field, defaults.get(field) if field in now else None)
        more = grows and field == GROWS and isinstance(old, int) and isinstance(new, int) and old < new
        if new != old and not more and field not in FREE:
            raise ValueError(f"{field} is {new!r} here and {old!r} in {folder}: use another --workdir")
    if data != told[DIGEST]:
        raise ValueError(
            f"the images or labels have changed since {folder} was made: bring them back or use "
            "another --workdir"
        )


def flat(parts: object, prefix: str = "") -> dict[str, object]:
    """The knobs of nested values by their dotted names."""
    if not isinstance(parts, dict):
        return {prefix: parts}
    within = (flat(part, f"{prefix}.{name}" if prefix else name) for name, part in parts.items())
    return {name: part for each in within for name, part in each.items()}


def digest(*parts: str | ArrayLike) -> str:
    """A name for texts and arrays, the same for the same in any process."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, str):
            found.update(part.encode())
        else:
            found.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return found.hexdigest()
