"""What is computed of test images chunk by chunk, kept, and found again."""

import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import PyTree

from knn_jax import mesh
from knn_jax.data import Split
from knn_jax.display import progress
from knn_jax.evaluation.code import classes, version
from knn_jax.recipe.fit import System
from knn_jax.workdir import Place, digest, files
from knn_jax.workdir.bucket import Unreachable

PART = "part"  # in a file: which it is
TIMES = "seconds", "compile_seconds"
PAUSE, BUCKETS_PAUSE = 0.2, 2.0  # seconds between two looks for what other processes compute
Span = tuple[int, int]  # the first image of a chunk, and how many there are


class Results(NamedTuple):
    """Arrays by name, one entry for each image, of one attack, certificate or measure."""

    arrays: dict[str, np.ndarray]
    seconds: float
    compile_seconds: float


class Resumable:
    """Images, chunk by chunk; equal settings, classifier and code find each chunk's file again.

    `name` is the folder's; `settings` are JSON. `code` are values, or classes, on whose sources the
    results depend beside those of the classifier and its network. `given` is what is computed with
    besides keys, images and labels, the classifier unless it is said otherwise; `source` is a
    classifier whose gradients are followed, if it is another. A file that is damaged, or belongs
    elsewhere, is told of and counts as missing. Several processes divide what is missing, and each
    reads from the folder what the others have left there.
    """

    def __init__(
        self,
        name: str,
        settings: object,
        system: System,
        images: int,
        chunk: int,
        folder: Place,
        *,
        code: tuple[object, ...] = (),
        seed: int = 0,
        split: Split | None = None,
        source: PyTree = None,
    ):
        self.size, self.seed = min(chunk, images), seed
        self.pause = PAUSE if isinstance(folder, Path) else BUCKETS_PAUSE  # who asks is paid for
        self.given: PyTree = system.model
        self.split = split or system.dataset.test
        own = {part for part in code if isinstance(part, type)}
        sources = version(*own | classes(*code, system.model, source))
        told = json.dumps([name, settings, chunk, seed, system.fingerprint, jax.__version__, sources])
        identity = digest(told, *jax.tree.leaves(source))
        parts = folder / "parts" / f"{name.replace(' ', '_')}_{identity}"
        spans = [(first, min(chunk, images - first)) for first in range(0, images, chunk)]
        self.files = {span: parts / f"{span[0]:06d}_{span[1]}.npz" for span in spans}
        self.damaged: set[Span] = set()
        self.found: dict[Span, dict[str, np.ndarray]] = {}
        self._look(spans)
        there = mesh.of_first(np.array([span in self.found for span in spans]))
        self.missing = [span for span, kept in zip(spans, there, strict=True) if not kept]
        for span in self.missing:
            self.found.pop(span, None)  # damaged for the first process

    def complete(self) -> bool:
        """Whether nothing is left to compute."""
        return not self.missing

    def _look(self, spans: list[Span]) -> list[Span]:
        """Reads those chunks that are there, and returns which."""
        kept = files.present([self.files[span] for span in spans])
        there = {self.files[span]: span for span in spans if self.files[span] in kept}
        parts = files.each(lambda file: self._read(there[file]), list(there))
        read = zip(there.values(), parts, strict=True)
        found = {span: part for span, part in read if part is not None}
        self.found |= found
        return list(found)

    def _read(self, span: Span) -> dict[str, np.ndarray] | None:
        """What earlier runs left of a chunk."""
        file = self.files[span]
        try:
            part = files.arrays(file)
            if str(part.pop(PART, "")) != self._name(span, part):
                raise ValueError(f"{file} is damaged or no part of this result")
        except Unreachable:
            raise
        except ValueError as error:
            if span not in self.damaged:
                progress.say(f"{error}: it counts as missing")
            self.damaged.add(span)
            return None
        return part

    def _name(self, span: Span, part: dict[str, np.ndarray]) -> str:
        """Of which result a chunk is, which chunk, and of what arrays; kept in its file."""
        file = self.files[span]
        return f"{file.parent.name}/{file.name}: {' '.join(sorted(part))}"

    def results(self, one: Callable[..., dict], what: str) -> Results:
        """Computes `one(given, key, x, y)` where it is missing, and joins all chunks."""
        total, left = (sum(count for _, count in spans) for spans in (self.files, self.missing))
        with progress.bar(what, total, total - left) as advance:
            if own := list(mesh.divided(self.missing)):
                self._compute(one, own, advance)
            self._await(advance)
        self.missing = []
        parts = [self.found[span] for span in self.files]
        seconds, compile_seconds = (sum(float(part[name]) for part in parts) for name in TIMES)
        names = [name for name in parts[0] if name not in TIMES]
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in names}
        return Results(arrays, seconds, compile_seconds)

    def _await(self, advance: Callable[[int], None]) -> None:
        """Reads what other processes compute, as soon as it is there."""
        lacking = [span for span in self.files if span not in self.found]
        while lacking:
            for span in self._look(lacking):
                advance(span[1] if span in self.missing else 0)
            lacking = [span for span in lacking if span not in self.found]
            if lacking:
                time.sleep(self.pause)

    def _compute(self, one: Callable[..., dict], missing: list[Span], advance: Callable) -> None:
        """Each device of this process computes chunks of its own; what is missing, however little, by
        the program that computed the rest."""
        devices = mesh.make(jax.local_devices())
        model = jax.device_put(self.given, mesh.whole(devices))
        program = jax.jit(_spread(one, devices))
        compiled, compile_seconds = None, 0.0
        for turn in range(0, len(missing), devices.size):
            group = missing[turn : turn + devices.size]
            arguments = model, *self._arguments(group, devices)
            if compiled is None:
                start = time.perf_counter()
                compiled = program.lower(*arguments).compile()
                compile_seconds = time.perf_counter() - start
            start = time.perf_counter()
            arrays = {k: np.asarray(v) for k, v in compiled(*arguments).items()}
            seconds = (time.perf_counter() - start) / len(group)
            parts: dict[Place, tuple[Span, dict[str, np.ndarray]]] = {}
            for number, span in enumerate(group):
                own = {k: v[number * self.size :][: span[1]] for k, v in arrays.items()}
                own["seconds"] = np.asarray(seconds)
                own["compile_seconds"], compile_seconds = np.asarray(compile_seconds), 0.0
                parts[self.files[span]] = span, own
            files.each(functools.partial(self._keep, parts, advance), list(parts))

    def _keep(self, parts: Mapping[Place, tuple[Span, dict]], advance: Callable, file: Place) -> None:
        """Writes the file of one of the parts."""
        span, own = parts[file]
        named = own | {PART: np.asarray(self._name(span, own))}
        with files.whole(file) as scratch, open(scratch, "wb") as stream:
            np.savez(stream, allow_pickle=False, **named)
        self.found[span] = own
        advance(span[1])

    def _arguments(self, group: list[Span], devices: Mesh) -> tuple:
        """Keys, images and labels of a chunk for each device, padded to the one shape compiled."""
        key = jax.random.key(self.seed)

        def padded(array):
            return np.resize(array, (self.size, *array.shape[1:]))

        chunks = [
            (
                jax.random.fold_in(key, first)[None],
                padded(self.split.floats(first, first + count)),
                padded(self.split.labels[first : first + count]),
            )
            for first, count in group
        ]
        every = [chunks[number % len(chunks)] for number in range(devices.size)]
        keys, images, labels = zip(*every, strict=True)
        arguments = jnp.concatenate(keys), np.concatenate(images), np.concatenate(labels)
        return jax.device_put(arguments, mesh.batch(devices))


def _spread(one: Callable[..., dict], devices: Mesh) -> Callable[..., dict]:
    """`one` of as many chunks as there are devices, each computing its own."""
    every = PartitionSpec(devices.axis_names)

    def own(model, key, x, y):
        return one(model, key[0], x, y)

    specs = PartitionSpec(), every, every, every
    return jax.shard_map(own, mesh=devices, in_specs=specs, out_specs=every, check_vma=False)
