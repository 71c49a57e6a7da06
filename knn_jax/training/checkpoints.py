"""What training carries from step to step, and its checkpoints."""

import hashlib
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import PyTree

from knn_jax import mesh
from knn_jax.display import progress
from knn_jax.training.places import Bucket, Disk
from knn_jax.workdir import Place, files

EVERY = 10.0  # seconds of training that a process that is killed may lose, at the end of an epoch
SUMS = "SHA256SUMS"  # beside the files of a checkpoint; `sha256sum -c` compares them too


class Best(NamedTuple):
    """The variables of the epoch that early stopping keeps, and their accuracy."""

    accuracy: jax.Array
    variables: PyTree


class State(NamedTuple):
    """What training carries from step to step, and a checkpoint holds."""

    variables: PyTree
    optimiser: PyTree
    step: jax.Array
    best: Best | None = None


class Checkpoints:
    """Orbax checkpoints of `State` below a folder, the latest two, each with checksums of its files.

    Orbax has none of the arrays: a byte that flips is other weights, or tasks that fail in its threads.
    To those in a bucket process 0 writes, and every process reads a copy of its own.
    """

    def __init__(self, folder: Place):
        if isinstance(folder, epath.Path):
            self.kept, alone = Bucket(folder / "checkpoints", SUMS), _alone()
        else:
            self.kept, alone = Disk(folder.resolve() / "checkpoints"), None
        self.place, self.folder = self.kept.place, self.kept.folder
        self.saved = time.monotonic()
        mesh.by_first(self._set_damaged_aside)
        if alone:
            self._copy_latest()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2,
            create=not alone,
            cleanup_tmp_directories=True,
            multiprocessing_options=alone or ocp.options.MultiprocessingOptions(),
        )
        try:
            self.manager = ocp.CheckpointManager(
                self.folder, options=options, item_handlers=ocp.StandardCheckpointHandler()
            )
        except OSError as error:
            raise ValueError(f"{self.folder} cannot be written: {error.strerror or error}") from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Waits until what was saved is on disk."""
        self.manager.close()

    def due(self) -> bool:
        """Whether the latest is older than what a killed process may lose, for all processes alike."""
        return bool(mesh.of_first(np.array(time.monotonic() - self.saved > EVERY)))

    def save(self, state: State) -> None:
        """Returns when it is on disk, or in the bucket; ValueError where it cannot be written."""
        if isinstance(self.kept, Bucket):
            mesh.by_first(lambda: self._save(jax.device_get(state)))
        else:
            self._save(state)

    def _save(self, state: State) -> None:
        step = int(state.step)
        if step in self.manager.all_steps():
            return
        folder, place = self.folder / str(step), self.place / str(step)
        need, free = sum(a.nbytes for a in jax.tree.leaves(state)), shutil.disk_usage(self.folder).free
        if free < need:  # asked first: what fails in orbax's threads is told by each of them
            raise ValueError(
                f"checkpoint {place} cannot be written: it takes {need} bytes and the disk has {free}"
            )
        try:
            self.manager.save(step, args=ocp.args.StandardSave(_named(state)))
            self.manager.wait_until_finished()  # the next step donates these arrays
        except Exception as error:  # orbax, tensorstore and the disk each raise their own
            told = f"{error}".strip().partition("\n")[0] or type(error).__name__
            raise ValueError(f"checkpoint {place} cannot be written: {told}") from error
        self.saved = time.monotonic()
        if mesh.first():
            with files.whole(folder / SUMS) as scratch:
                scratch.write_text(_sums(folder))
            self.kept.keep(step)

    def restore(self, like: State) -> State | None:
        """The latest checkpoint, or None; ValueError for one that does not hold such a state."""
        step = self.manager.latest_step()
        if step is None:
            return None
        try:
            # Asked first: orbax that fails half-way leaves readers behind which complain later.
            if _shapes(self.manager.item_metadata(step)) != _shapes(_named(like)):
                raise ValueError("other shapes")
            found = self.manager.restore(step, args=ocp.args.StandardRestore(_named(like)))
        except Exception as error:  # orbax, tensorstore and json each raise their own
            raise ValueError(
                f"checkpoint {self.place / str(step)} is damaged or of another network: remove it or "
                "use another --workdir"
            ) from error
        return State(**found)

    def _set_damaged_aside(self) -> None:
        """Sets aside those that are newer than the latest that is whole, where training goes on.

        That is told. ValueError if none is whole or one cannot be read; they all stay.
        """
        damaged: dict[int, str] = {}
        for step in self.kept.steps():
            fault = _fault(self.kept.fetch(step))
            if fault:
                damaged[step] = fault
                continue
            for other, told in damaged.items():
                self.kept.set_aside(other)
                place = self.place / str(other)
                progress.say(f"checkpoint {place} is damaged ({told}): set aside, going on from {step}")
            return
        for step, fault in damaged.items():
            raise ValueError(
                f"checkpoint {self.place / str(step)} is damaged ({fault}) and none that is older is "
                "whole: remove it or use another --workdir"
            )

    def _copy_latest(self) -> None:
        """Gives the other processes copies of what the first has chosen."""
        latest = max((int(step.name) for step in self.folder.iterdir()), default=-1)
        chosen = int(mesh.of_first(np.array(latest)))

        def copy() -> None:
            if chosen >= 0 and not mesh.first() and (fault := _fault(self.kept.fetch(chosen))):
                raise ValueError(f"the copy of checkpoint {self.place / str(chosen)} differs ({fault})")

        mesh.together(copy)


def _alone() -> ocp.options.MultiprocessingOptions:
    """Orbax in a folder that no other process sees."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )


def _fault(step: Path) -> str:
    """What is wrong with the files of a checkpoint, if anything."""
    try:
        found = _sums(step)
        kept = (step / SUMS).read_text() if (step / SUMS).exists() else None
    except OSError as error:
        what = error.filename or step
        raise ValueError(f"{what} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError:
        return SUMS
    if found and kept is None:  # of an earlier version, or of a run that died between the two
        progress.say(f"checkpoint {step} has no {SUMS}: taken as it is")
        return ""
    differ = set((kept or "").splitlines()) ^ set(found.splitlines())
    return ", ".join(sorted({line.partition("  ")[2] for line in differ})) if found else "empty"


def _sums(step: Path) -> str:
    """The checksums of its files, as `sha256sum` writes them."""
    lines = []
    for file in sorted(file for file in step.rglob("*") if file.is_file()):
        if file.name != SUMS and not file.name.startswith("."):
            with open(file, "rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            lines.append(f"{found}  {file.relative_to(step)}\n")
    return "".join(lines)


def _named(state: State) -> dict[str, PyTree]:
    """What a checkpoint holds of it."""
    return {name: value for name, value in state._asdict().items() if value is not None}


def _shapes(tree: PyTree) -> dict[tuple[str, ...], tuple]:
    """Shape and type of each leaf by its path, whatever the containers are."""

    def name(key):
        return str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))))

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(map(name, path)): (tuple(a.shape), np.dtype(a.dtype)) for path, a in leaves}
