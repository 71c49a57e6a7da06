"""Files written whole or not at all, and arrays read with their checksums compared; here it is known
which places are local and which are in a bucket."""

import contextlib
import errno
import io
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from etils import epath

from knn_jax.workdir import bucket

T = TypeVar("T")
R = TypeVar("R")
# A local path, or one in a bucket: what is read and written goes by this file.
Place = Path | epath.Path


def place(what: str, text: str) -> Place:
    """The place of a file or folder, `what` it is for: a local path or gs://BUCKET/PATH.

    Raises ValueError for any other store, for gs:// without gcsfs, and for a home that does not exist.
    """
    if text.startswith(bucket.SCHEME):
        return bucket.place(what, text)
    if "://" in text:
        raise ValueError(f"{what}={text!r}: give a local path or gs://BUCKET/PATH")
    return local(what, text)


def local(what: str, place: str) -> Path:
    """The path of a file or folder, `what` it is for; ValueError for an object store and for a home
    that does not exist."""
    if "://" in place:
        raise ValueError(f"{what}={place!r}: only a local path is read here, copy what is there")
    try:
        return Path(place).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{what}={place!r}: there is no such home: give a full path") from error


@contextlib.contextmanager
def whole(file: Place) -> Iterator[Path]:
    """A scratch path that takes the file's place when the block ends without an error.

    Its content is on disk before it does, so that a crash of the machine too leaves the old file or the
    new one. Scratch names are random: equal process ids, as containers have them, do not meet. Raises
    ValueError, with the file's name, where the disk is full or something stands in the way.
    """
    with _written(file):
        if isinstance(file, epath.Path):  # an object appears when all of it is there
            with tempfile.TemporaryDirectory(prefix="knn_jax-") as folder:
                scratch = Path(folder) / file.name
                yield scratch
                bucket.upload(scratch, file)
            return
        scratch = file.with_name(f".{file.name}.{secrets.token_hex(8)}.scratch")
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield scratch
            _sync(scratch)
            os.replace(scratch, file)
        finally:
            scratch.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not every file system knows this of a folder
        _sync(file.parent)


@contextlib.contextmanager
def _written(file: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"{file} cannot be written: {error.strerror or error}") from error


def sweep(folder: Place) -> None:
    """Removes the scratch files below a folder, which must be of dead processes; a bucket has none."""
    for scratch in () if isinstance(folder, epath.Path) else folder.rglob(".*.scratch"):
        scratch.unlink(missing_ok=True)


def exists(place: Place) -> bool:
    """Whether there is such a file or folder."""
    return bucket.exists(place) if isinstance(place, epath.Path) else place.exists()


def is_file(file: Place) -> bool:
    """Whether there is such a file."""
    if isinstance(file, epath.Path):
        return bucket.generation(file) is not None
    return file.is_file()


def each(do: Callable[[T], R], files: Sequence[T]) -> list[R]:
    """`do` of all the files, of those in a bucket several at once."""
    stored = any(isinstance(file, epath.Path) for file in files)
    return bucket.each(do, files) if stored else [do(file) for file in files]


def present(files: Iterable[Place]) -> set[Place]:
    """Those of the files that there are; a bucket is asked once for each folder."""
    asked = list(files)
    found: set[Place] = {file for file in asked if isinstance(file, Path) and file.exists()}
    for folder in {file.parent for file in asked if isinstance(file, epath.Path)}:
        found |= {folder / name for name in bucket.below(folder)}
    return found & set(asked)


def text(file: Place) -> str:
    """The text of a file; OSError or `bucket.Unreachable` where it cannot be read."""
    if not isinstance(file, epath.Path):
        return file.read_text()
    content = bucket.read(file)
    if content is None:
        raise FileNotFoundError(errno.ENOENT, "there is no such object", str(file))
    return content.decode()


def arrays(file: Place) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; ValueError, with its name, for one that is damaged or is none.

    Each is as it was written; some may be missing, where the damage is in the file's own directory. A
    bucket that does not answer is `bucket.Unreachable`, and no damage.
    """
    stored = (bucket.read(file) or b"") if isinstance(file, epath.Path) else b""
    try:
        with (
            io.BytesIO(stored) if isinstance(file, epath.Path) else open(file, "rb") as stream,
            np.load(stream) as found,
        ):
            return dict(found)
    except Exception as error:  # numpy, zipfile, zlib and the disk each raise their own
        told = " ".join(f"{error}".split()) or type(error).__name__
        raise ValueError(f"{file} is damaged or no .npz of arrays: {told}") from error


def _sync(path: Path) -> None:
    """Waits until it is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
