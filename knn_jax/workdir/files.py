"""Files written whole or not at all, and arrays read with their checksums compared."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np


def local(what: str, place: str) -> Path:
    """The path of a file or folder, `what` it is for; ValueError for an object store and for a home
    that does not exist."""
    if "://" in place:
        raise ValueError(f"{what}={place!r}: object stores are not read or written, give a local path")
    try:
        return Path(place).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{what}={place!r}: there is no such home: give a full path") from error


@contextlib.contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A scratch path that takes the file's place when the block ends without an error.

    Its content is on disk before it does, so that a crash of the machine too leaves the old file or the
    new one. Scratch names are random: equal process ids, as containers have them, do not meet. Raises
    ValueError, with the file's name, where the disk is full or something stands in the way.
    """
    scratch = file.with_name(f".{file.name}.{secrets.token_hex(8)}.scratch")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield scratch
            _sync(scratch)
            os.replace(scratch, file)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(f"{file} cannot be written: {error.strerror or error}") from error
    with contextlib.suppress(OSError):  # not every file system knows this of a folder
        _sync(file.parent)


def sweep(folder: Path) -> None:
    """Removes the scratch files below a folder, which must be of dead processes."""
    for scratch in folder.rglob(".*.scratch"):
        scratch.unlink(missing_ok=True)


def arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; ValueError, with its name, for one that is damaged or is none.

    Each is as it was written; some may be missing, where the damage is in the file's own directory.
    """
    try:
        with open(file, "rb") as stream, np.load(stream) as found:
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
