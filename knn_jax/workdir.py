"""The folder of a run: whose network it holds, of which data, and one run in it at a time."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from knn_jax import files, lock, progress
from knn_jax.config import Config
from knn_jax.data import Dataset

SECTIONS = ("data", "net", "defense", "optim")  # what decides the trained network
DIGEST = "data_digest"  # in config.json, beside the recipe


def check(path: str, recipe: Config) -> None:
    """Raises ValueError, before anything is read or made, for paths in object stores and for a workdir
    that another run is using."""
    folder = files.local("workdir", path)
    files.local("data.name", recipe.data.name)
    files.local("data.data_dir", recipe.data.data_dir)
    files.local("net.weights", recipe.net.weights)
    lock.check(folder)


@contextlib.contextmanager
def claim(path: str, recipe: Config, dataset: Dataset) -> Iterator[Path]:
    """The folder, made if need be, with the recipe in its config.json, held against other runs.

    Of several processes that share their devices the first holds it for all. Raises ValueError where it
    cannot be written, where another run holds it, and where it holds another recipe's network: one
    whose images or labels, or whose data, net, defense or optim sections differ, but for more epochs;
    racnn takes no more, for the network that it retrieves by would learn on below it.
    """
    folder = files.local("workdir", path)
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                locked = stack.enter_context(lock.held(folder))
                if not locked:
                    progress.say(f"no locks on this file system: keep other runs out of {folder}")
                elif jax.process_count() == 1:
                    files.sweep(folder)
        except OSError as error:
            raise ValueError(f"workdir {folder} cannot be written: {error.strerror}") from error
        told = {**recipe.asdict(), DIGEST: dataset.digest()}
        _compare(folder, recipe, told)
        with files.whole(folder / "config.json") as scratch:
            scratch.write_text(json.dumps(told, indent=2) + "\n")
        yield folder


def _compare(folder: Path, recipe: Config, told: dict[str, Any]) -> None:
    """Raises ValueError if the folder holds another network than that of the recipe and the data."""
    file = folder / "config.json"
    try:
        before = json.loads(file.read_text())
        earlier = _fields(before)
        data = before.get(DIGEST)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{file} is damaged: use another --workdir") from error
    defaults = _fields(Config(name=recipe.name).asdict())  # of knobs that there were not then
    for field, value in _fields(told).items():
        old = earlier.get(field, defaults[field])
        more = field == "optim.epochs" and recipe.defense.name != "racnn"
        if old != value and not (more and isinstance(old, int) and old < value):
            raise ValueError(
                f"{field} is {value!r} here and {old!r} in {folder}: use another --workdir"
            )
    if data is None:
        progress.say(f"{folder} is from before data had digests: taken to be of the present images")
    elif data != told[DIGEST]:
        raise ValueError(
            f"the images or labels of data.name={recipe.data.name!r} have changed since {folder} was "
            "made: bring them back or use another --workdir"
        )


def digest(*parts: Any) -> str:
    """A name for texts and arrays, the same for the same in any process."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, str):
            found.update(part.encode())
        else:
            found.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _fields(sections: dict[str, Any]) -> dict[str, Any]:
    return {f"{s}.{k}": v for s in SECTIONS for k, v in sections[s].items()}
