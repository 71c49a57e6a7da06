"""What is computed of test images chunk by chunk, kept, and found again."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from knn_jax import data, progress
from knn_jax.recipes import Defended
from knn_jax.workdir import digest, whole


class Outcome(NamedTuple):
    """Results of one attack or certificate: arrays by name, one entry for each image."""

    arrays: dict[str, np.ndarray]
    seconds: float
    compile_seconds: float


class Chunks:
    """Test images, or those of `split`, chunk by chunk; equal settings find each chunk's file again.

    `source` is the classifier whose gradients are followed, if it is another.
    """

    def __init__(
        self,
        settings: list,
        defended: Defended,
        images: int,
        chunk: int,
        seed: int,
        folder: Path,
        split: data.Split | None = None,
        source: Any = None,
    ):
        self.defended, self.size, self.seed = defended, min(chunk, images), seed
        self.model: Any = defended.model  # what is computed with
        self.split = split or defended.dataset.test
        told = json.dumps([settings, defended.fingerprint, jax.__version__])
        identity = digest(told, *jax.tree.leaves(source))
        parts = folder / "parts" / f"{settings[0]}_{settings[1]}_{identity}"
        spans = [(first, min(chunk, images - first)) for first in range(0, images, chunk)]
        self.files = {span: parts / f"{span[0]:06d}_{span[1]}.npz" for span in spans}

    def complete(self) -> bool:
        """Whether nothing is left to compute."""
        return all(file.exists() for file in self.files.values())

    def outcome(self, one: Callable[..., dict], what: str) -> Outcome:
        """Computes `one(model, key, x, y)` where it is missing, and joins all chunks."""
        compiled, compile_seconds, parts = None, 0.0, []
        with progress.bar(what, sum(count for _, count in self.files)) as advance:
            for (first, count), file in self.files.items():
                if not file.exists():
                    arguments = self._arguments(first, count)
                    if compiled is None:
                        start = time.perf_counter()
                        compiled = jax.jit(one).lower(*arguments).compile()
                        compile_seconds = time.perf_counter() - start
                    start = time.perf_counter()
                    arrays = {k: np.asarray(v)[:count] for k, v in compiled(*arguments).items()}
                    arrays["seconds"] = np.asarray(time.perf_counter() - start)
                    arrays["compile_seconds"], compile_seconds = np.asarray(compile_seconds), 0.0
                    with whole(file) as scratch, open(scratch, "wb") as stream:
                        np.savez(stream, allow_pickle=False, **arrays)
                with np.load(file) as saved:
                    parts.append(dict(saved))
                advance(count)
        seconds, compile_seconds = (
            sum(float(part.pop(name)) for part in parts) for name in ("seconds", "compile_seconds")
        )
        arrays = {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
        return Outcome(arrays, seconds, compile_seconds)

    def _arguments(self, first: int, count: int) -> tuple:
        """Of a chunk, padded to the one shape that is compiled."""
        split = self.split
        arrays = split.floats(first, first + count), split.labels[first : first + count]
        x, y = (np.resize(array, (self.size, *array.shape[1:])) for array in arrays)
        return self.model, jax.random.fold_in(jax.random.key(self.seed), first), x, y
