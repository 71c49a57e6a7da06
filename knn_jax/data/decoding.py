"""Records of images decoded once, into files that later runs read."""

import contextlib
import fcntl
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

import numpy as np
from numpy.lib import format as npy

from knn_jax.data.dataset import Split, Track, paired
from knn_jax.data.resized import resized
from knn_jax.data.stored import Stored

HELD = 2**30  # bytes of a split's images from which on they stay in their file
TOGETHER = 256  # records that are decoded at once
IMAGES, LABELS = "images.npy", "labels.npy"
LABEL = 4  # bytes of one


@runtime_checkable
class Source(Protocol):
    """Records by their numbers, each with an image and a label; those of TFDS and grain are."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Mapping[str, np.ndarray | np.generic]: ...


def read(folder: Path) -> Split:
    """The split that a folder holds; its images stay in their file if they are many."""
    labels = np.load(folder / LABELS)
    if (folder / IMAGES).stat().st_size < HELD:
        return Split(np.load(folder / IMAGES), labels)
    return Split(Stored(folder / IMAGES), labels)


def decode(source: Source, name: str, size: int, folder: Path, track: Track) -> Split:
    """The split of records (image, label), which `folder` holds afterwards.

    Images are decoded by several threads, resized to squares of `size` pixels (0: left as they are) and
    written as they come, so that memory does not grow with their number; one that is killed goes on
    where it was. A second process waits for the first. Where the folder cannot be written the images
    are kept in memory, unless they are many.

    Raises ValueError for images that differ in size, and for many that cannot be written.
    """
    shape = resized(np.asarray(source[0]["image"]), size).shape
    need = len(source) * int(np.prod(shape))
    half = folder.with_name(f".{folder.name}.half")
    try:
        with _alone(folder):
            if not folder.is_dir():
                _write(source, name, size, shape, half, track)
                os.replace(half, folder)  # whole or not at all
        return read(folder)
    except OSError as error:
        told = error.strerror or error
        shutil.rmtree(half, ignore_errors=True)
    except ValueError:
        shutil.rmtree(half, ignore_errors=True)
        raise
    if need < HELD:  # a small set that others prepared, read-only: decode again next time
        parts = list(_batches(source, name, size, shape, 0, track))
        images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Split(images, labels)
    raise ValueError(
        f"{folder} cannot be written: {told}; the decoded images of {name} take {need / 1e9:.1f} GB "
        "there: make room, or copy the set to a folder of your own and give it as data_dir"
    )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the folder's name during the block, after whoever holds it now."""
    with open(folder.with_name(f".{folder.name}.lock"), "w") as stream:
        with contextlib.suppress(OSError):  # of a file system without locks
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _write(
    source: Source, name: str, size: int, shape: tuple[int, ...], half: Path, track: Track
) -> None:
    """Appends what is missing to the files in `half`."""
    half.mkdir(exist_ok=True)
    row = int(np.prod(shape))
    with (
        _begun(half / IMAGES, (len(source), *shape), np.uint8) as (images, first),
        _begun(half / LABELS, (len(source),), np.int32) as (labels, start),
    ):
        sizes = (os.fstat(stream.fileno()).st_size for stream in (images, labels))
        written, named = sizes
        done = min((written - first) // row, (named - start) // LABEL)
        images.truncate(first + done * row)
        labels.truncate(start + done * LABEL)
        for pictures, classes in _batches(source, name, size, shape, done, track):
            for stream, part in ((images, pictures), (labels, classes)):
                stream.write(part.tobytes())
                stream.flush()
        for stream in (images, labels):
            os.fsync(stream.fileno())


@contextlib.contextmanager
def _begun(file: Path, shape: tuple[int, ...], dtype: type) -> Iterator[tuple[IO[bytes], int]]:
    """An .npy file to append to, and where its numbers start; one of another shape is begun anew."""
    header = io.BytesIO()
    kind = npy.dtype_to_descr(np.dtype(dtype))
    npy.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": shape})
    with open(file, "a+b") as stream:
        stream.seek(0)
        if stream.read(header.tell()) != header.getvalue():
            stream.truncate(0)
            stream.write(header.getvalue())
            stream.flush()
        yield stream, header.tell()


def _batches(
    source: Source, name: str, size: int, shape: tuple[int, ...], done: int, track: Track
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The records from `done` on, decoded by as many threads as there are cores."""

    def record(row: int) -> tuple[np.ndarray, np.ndarray]:
        found = source[row]
        return resized(np.asarray(found["image"]), size), np.asarray(found["label"])

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for first in track(range(done, len(source), TOGETHER), f"decoding {name}"):
            rows = range(first, min(first + TOGETHER, len(source)))
            images, labels = zip(*pool.map(record, rows), strict=True)
            if any(image.shape != shape for image in images):
                raise ValueError(f"the images of {name} differ in size: give size=128, say")
            split = paired(name, np.stack(images), np.stack(labels))
            yield split.images[:], split.labels
