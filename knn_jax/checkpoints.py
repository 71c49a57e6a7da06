"""What training carries from step to step, and its checkpoints."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from knn_jax import progress
from knn_jax.workdir import digest

DIGEST = "digest"  # among what orbax keeps with a checkpoint


class Best(NamedTuple):
    """The variables of the epoch that early stopping keeps, and their accuracy."""

    accuracy: jax.Array
    variables: Any


class State(NamedTuple):
    """What training carries from step to step, and a checkpoint holds."""

    variables: Any
    optimiser: Any
    step: jax.Array
    best: Best | None = None


class Checkpoints:
    """Orbax checkpoints of `State` below a folder, the latest two, each with a digest of its arrays.

    Orbax and the file system have no checksums of these: a byte that flips is other weights.
    """

    def __init__(self, folder: Path):
        self.folder = folder.resolve() / "checkpoints"
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, cleanup_tmp_directories=True)
        try:
            self.manager = ocp.CheckpointManager(
                self.folder, options=options, item_handlers=ocp.StandardCheckpointHandler()
            )
        except OSError as error:
            raise ValueError(
                f"{self.folder} cannot be opened as a folder of checkpoints: {error.strerror or error}"
            ) from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Waits until what was saved is on disk."""
        self.manager.close()

    def save(self, state: State) -> None:
        """Returns when it is on disk; ValueError where it cannot be written."""
        step, named = int(state.step), _named(state)
        if step in self.manager.all_steps():
            return
        try:
            self.manager.save(
                step, args=ocp.args.StandardSave(named), custom_metadata={DIGEST: _digest(named)}
            )
            self.manager.wait_until_finished()  # the next step donates these arrays
        except Exception as error:  # orbax, tensorstore and the disk each raise their own
            raise ValueError(
                f"checkpoint {self.folder / str(step)} cannot be written: {_line(error)}"
            ) from error

    def restore(self, like: State) -> State | None:
        """The latest checkpoint that is whole, or None where there is none yet.

        One that is damaged is told of and removed if an older one is whole, so that training goes on
        from that. ValueError if no checkpoint holds such a state; they all stay.
        """
        steps = sorted(self.manager.all_steps(), reverse=True)
        faults = []
        for step in steps:
            try:
                found = self._whole(step, _named(like))
            except Exception as error:  # orbax, tensorstore and json each raise their own
                faults.append((step, error))
                continue
            for damaged, error in faults:
                what = f"checkpoint {self.folder / str(damaged)} is damaged ({_line(error)})"
                progress.say(f"{what}: removed, going on from step {step}")
                self.manager.delete(damaged)
            return State(**found)
        if not faults:
            return None
        step, error = faults[0]
        raise ValueError(
            f"checkpoint {self.folder / str(step)} is damaged or of another network: remove it or "
            "use another --workdir"
        ) from error

    def _whole(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        """The checkpoint of that step; raises whatever it may if it is damaged."""
        # Asked first: orbax that fails half-way leaves readers behind which complain later.
        if _shapes(self.manager.item_metadata(step)) != _shapes(like):
            raise ValueError("other shapes")
        told = self.manager.metadata(step)
        found = self.manager.restore(step, args=ocp.args.StandardRestore(like))
        if not told.custom_metadata and told.commit_timestamp_nsecs:  # else its file is damaged
            progress.say(f"checkpoint {self.folder / str(step)} is from before these had digests")
        elif (told.custom_metadata or {}).get(DIGEST) != _digest(found):
            raise ValueError("its arrays are not those that were saved")
        return found


def _named(state: State) -> dict[str, Any]:
    """What a checkpoint holds of it."""
    return {name: value for name, value in state._asdict().items() if value is not None}


def _digest(named: dict[str, Any]) -> str:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(named)]
    return digest(*(part for leaf in leaves for part in (f"{leaf.dtype} {leaf.shape}", leaf)))


def _line(error: Exception) -> str:
    """The first line of what an error tells."""
    return f"{error}".strip().partition("\n")[0] or type(error).__name__


def _shapes(tree: Any) -> dict[tuple[str, ...], tuple]:
    """Shape and type of each leaf by its path, whatever the containers are."""

    def name(key):
        return str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))))

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(map(name, path)): (tuple(a.shape), np.dtype(a.dtype)) for path, a in leaves}
