"""The folder of a run: its recipe, its checkpoints, its results; files written whole or not at all."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from knn_jax.config import Config

SECTIONS = ("data", "net", "defense", "optim")  # what decides the trained network


def claim(path: str, recipe: Config) -> Path:
    """The folder, made if need be, with the recipe in its config.json.

    Raises ValueError where it cannot be written or holds another recipe's network: one whose data,
    net, defense or optim sections differ, but for more epochs; racnn takes no more, for the network
    that it retrieves by would learn on below it.
    """
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"workdir {folder} cannot be written: {error.strerror}") from error
    file = folder / "config.json"
    if file.exists():
        try:
            before = json.loads(file.read_text())
            earlier = {f"{s}.{k}": v for s in SECTIONS for k, v in before[s].items()}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{file} is damaged: use another --workdir") from error
        defaults = _fields(Config(name=recipe.name))  # of knobs that there were not then
        for field, value in _fields(recipe).items():
            old = earlier.get(field, defaults[field])
            more = field == "optim.epochs" and recipe.defense.name != "racnn" and old < value
            if old != value and not more:
                raise ValueError(
                    f"{field} is {value!r} here and {old!r} in {folder}: use another --workdir"
                )
    with whole(file) as scratch:
        scratch.write_text(json.dumps(recipe.asdict(), indent=2) + "\n")
    return folder


@contextlib.contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A scratch path that takes the file's place when the block ends without an error."""
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".{os.getpid()}.{file.name}")
    try:
        yield scratch
        os.replace(scratch, file)
    finally:
        scratch.unlink(missing_ok=True)


def digest(*parts: Any) -> str:
    """A name for texts and arrays, the same for the same in any process."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, str):
            found.update(part.encode())
        else:
            found.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _fields(recipe: Config) -> dict[str, Any]:
    sections = recipe.asdict()
    return {f"{s}.{k}": v for s in SECTIONS for k, v in sections[s].items()}
