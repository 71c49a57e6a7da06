"""One run at a time in a folder, by a lock that the system takes back from whoever dies."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from knn_jax.workdir import lease
from knn_jax.workdir.files import Place

FILE = ".lock"


def check(folder: Place) -> None:
    """Raises ValueError if another run holds the folder now, and if it is in a bucket that cannot be
    written; holds and makes nothing."""
    if isinstance(folder, epath.Path):
        lease.check(folder)
        return
    try:
        with open(folder / FILE) as stream:
            _take(folder, stream.fileno(), fcntl.LOCK_SH)
    except OSError:
        pass  # nobody ever held it, or it cannot be read: `held` will say so


@contextlib.contextmanager
def held(folder: Place) -> Iterator[bool]:
    """Holds the folder during the block; yields whether it does, for some file systems have no locks.

    The lock is flock's: it ends with its process, however that dies, and on NFS it holds between the
    machines that share the folder. In a bucket it is `lease`'s. Raises ValueError if another run holds
    it.
    """
    if isinstance(folder, epath.Path):
        with lease.held(folder):
            yield True
        return
    descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        locked = _take(folder, descriptor, fcntl.LOCK_EX)
        if locked:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield locked
    finally:
        os.close(descriptor)


def _take(folder: Path, descriptor: int, kind: int) -> bool:
    """Whether there are locks; ValueError if another has it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another run"
        raise ValueError(
            f"{folder} is in use by {holder}: wait for its end or use another --workdir"
        ) from error
    except OSError:
        return False
    return True
