"""What training carries from step to step, and its checkpoints."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp


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
    """Orbax checkpoints of `State` below a folder, the latest two."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve() / "checkpoints"
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True)
        self.manager = ocp.CheckpointManager(
            self.folder, options=options, item_handlers=ocp.StandardCheckpointHandler()
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Waits until what was saved is on disk."""
        self.manager.close()

    def save(self, state: State) -> None:
        step = int(state.step)
        if step not in self.manager.all_steps():
            self.manager.save(step, args=ocp.args.StandardSave(_named(state)))
            self.manager.wait_until_finished()  # the next step donates these arrays

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
                f"checkpoint {self.folder / str(step)} is damaged or of another network: remove it or "
                "use another --workdir"
            ) from error
        return State(**found)


def _named(state: State) -> dict[str, Any]:
    """What a checkpoint holds of it."""
    return {name: value for name, value in state._asdict().items() if value is not None}


def _shapes(tree: Any) -> dict[tuple[str, ...], tuple]:
    """Shape and type of each leaf by its path, whatever the containers are."""

    def name(key):
        return str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))))

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(map(name, path)): (tuple(a.shape), np.dtype(a.dtype)) for path, a in leaves}
