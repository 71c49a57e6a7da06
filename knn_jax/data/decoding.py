"""Records of images decoded once, into files that later runs read."""

import contextlib
import fcntl
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.lib import format as npy

from knn_jax.data.dataset import Split, Track, paired
from knn_jax.data.resized import resized
from knn_jax.data.stored import Stored

HELD = 2**30  # bytes of a split's images from which on they stay in their file
TOGETHER = 256  # records that are decoded at once
IMAGES, LABELS = "images.npy", "labels.npy"


@runtime_checkable
class Source(Protocol):
    """Records by their numbers, each with an image and a label; those of TFDS and grain are."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Mapping[str, np.ndarray | np.generic]: ...


class Unreadable(ValueError):
    """A record of the source cannot be read; those before it stay decoded."""


class Wanted(NamedTuple):
    """What is decoded."""

    source: Source
    name: str
    size: int
    """Side in pixels of the squares that images are resized to; 0: as they are."""

    def record(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """An image with its label."""
        try:
            found = self.source[row]
            return resized(np.asarray(found["image"]), self.size), np.asarray(found["label"])
        except OSError as error:
            told = " ".join(f"{error}".split())
            raise Unreadable(f"record {row} of {self.name} cannot be read: {told}") from error


def read(folder: Path) -> Split:
    """The split that a folder holds; its images stay in their file if they are many. ValueError for
    files that are damaged or missing."""
    try:
        labels = np.load(folder / LABELS)
        many = (folder / IMAGES).stat().st_size >= HELD
        images = Stored(folder / IMAGES) if many else np.load(folder / IMAGES)
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images and {len(labels)} labels")
    except (OSError, ValueError, EOFError) as error:
        told = " ".join(f"{error}".split())
        raise ValueError(
            f"{folder} is damaged ({told}): remove this folder, and it is made anew"
        ) from error
    return Split(images, labels)


def decode(source: Source, name: str, size: int, folder: Path, track: Track) -> Split:
    """The split of records (image, label), which `folder` holds afterwards.

    Images are decoded by several threads, resized to squares of `size` pixels (0: left as they are) and
    written as they come, so that memory does not grow with their number; one that is killed goes on
    where it was. A second process waits for the first. Where the folder cannot be written the images
    are kept in memory, unless they are many.

    Raises ValueError for images that differ in size, records that cannot be read, and many images that
    cannot be written.
    """
    wanted = Wanted(source, name, size)
    like, _ = wanted.record(0)
    need = len(source) * like.nbytes
    half = folder.with_name(f".{folder.name}.half")
    try:
        with _alone(folder, track):
            try:
                if not folder.is_dir():
                    _write(wanted, like, half, track)
                    os.replace(half, folder)  # whole or not at all
            except Unreadable:
                raise
            except (OSError, ValueError):
                shutil.rmtree(half, ignore_errors=True)
                raise
    except OSError as error:
        told = error.strerror or error
    else:
        return read(folder)
    if need < HELD:  # a small set that others prepared, read-only: decode again next time
        parts = zip(*_batches(wanted, like, 0, track), strict=True)
        images, labels = (np.concatenate(part) for part in parts)
        return Split(images, labels)
    raise ValueError(
        f"{folder} cannot be written: {told}; the decoded images of {name} take {need / 1e9:.1f} GB "
        "there: make room, or copy the set to a folder of your own and give it as data_dir"
    )


@contextlib.contextmanager
def _alone(folder: Path, track: Track) -> Iterator[None]:
    """Holds the folder's name during the block, after whoever holds it now."""
    with open(folder.with_name(f".{folder.name}.lock"), "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            for _ in track([folder], f"waiting for another process, which decodes {folder.name}"):
                fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield


def _write(wanted: Wanted, like: np.ndarray, half: Path, track: Track) -> None:
    """Appends what is missing to the files in `half`. An image is on disk before its label is written,
    whose number is that of the images done."""
    half.mkdir(exist_ok=True)
    count = len(wanted.source)
    with (
        _begun(half / IMAGES, (count, *like.shape), like.dtype) as (images, first),
        _begun(half / LABELS, (count,), np.dtype(np.int32)) as (labels, start),
    ):
        sizes = [os.fstat(stream.fileno()).st_size for stream in (images, labels)]
        done = min((sizes[0] - first) // like.nbytes, (sizes[1] - start) // 4)
        images.truncate(first + done * like.nbytes)
        labels.truncate(start + done * 4)
        for pictures, classes in _batches(wanted, like, done, track):
            for stream, part in ((images, pictures), (labels, classes)):
                stream.write(part.tobytes())
                stream.flush()
                os.fsync(stream.fileno())


@contextlib.contextmanager
def _begun(
    file: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic]
) -> Iterator[tuple[IO[bytes], int]]:
    """An .npy file to append to, and where its numbers start; one of another shape is begun anew."""
    header = io.BytesIO()
    kind = npy.dtype_to_descr(dtype)
    npy.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": shape})
    with open(file, "a+b") as stream:
        stream.seek(0)
        if stream.read(header.tell()) != header.getvalue():
            stream.truncate(0)
            stream.write(header.getvalue())
            stream.flush()
        yield stream, header.tell()


def _batches(
    wanted: Wanted, like: np.ndarray, done: int, track: Track
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The records from `done` on, decoded by as many threads as there are cores."""
    count, name = len(wanted.source), wanted.name
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in track(range(done, count, TOGETHER), f"decoding {name}"):
            rows = range(first, min(first + TOGETHER, count))
            images, labels = zip(*pool.map(wanted.record, rows), strict=True)
            if any((image.shape, image.dtype) != (like.shape, like.dtype) for image in images):
                raise ValueError(f"the images of {name} differ in size: give size=128, say")
            split = paired(name, np.stack(images), np.stack(labels))
            if split.labels.ndim != 1:
                raise ValueError(f"the labels of {name} are {split.labels.shape[1:]}, not one a record")
            yield split.images[:], split.labels
