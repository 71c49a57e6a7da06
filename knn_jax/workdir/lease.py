"""One run at a time in a folder of a bucket, by an object that its holder renews while it lives."""

import contextlib
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from etils import epath

from knn_jax.display import progress
from knn_jax.workdir import bucket

FILE = ".lock"
RENEWED = 3.0  # seconds between two renewals by the holder
DEAD = 30.0  # seconds without a renewal after which there is no holder
LOOK = 1.0  # seconds between two looks at another's lock


def check(folder: epath.Path) -> None:
    """Raises ValueError if the folder cannot be written or another run holds it; keeps nothing.

    Whether the holder of a lock is alive shows in whether it is renewed, which takes `DEAD` seconds at
    most. No clocks are compared.
    """
    bucket.check_writable(folder)
    _await_end(folder)


@contextlib.contextmanager
def held(folder: epath.Path) -> Iterator[None]:
    """Holds the folder during the block; ValueError if another run does.

    A run that dies leaves its lock, which ends `DEAD` seconds later. One that is cut off from the
    bucket for so long, while another takes the folder, is interrupted as by Ctrl-C.
    """
    _await_end(folder)
    lock = _Lock(folder)
    over = threading.Event()
    renewing = threading.Thread(target=lock.renew, args=(over,), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join(LOOK)  # longer where the bucket is silent: then the lock ends by itself
        lock.release()


class _Lock:
    """A folder's lock, taken; each renewal is another generation of the object."""

    def __init__(self, folder: epath.Path):
        self.folder, self.at = folder, folder / FILE
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        holder = f"process {os.getpid()} on {socket.gethostname()} since {since}"
        self.content = f"{holder}\n{secrets.token_hex(8)}\n".encode()
        self.generation: str | None = "0"  # there must be none
        if not self._written():
            raise ValueError(_in_use(folder))

    def renew(self, over: threading.Event) -> None:
        """Writes it again and again, until it is over or another run has it."""
        while not over.wait(RENEWED):
            try:
                if self._written():
                    continue
            except bucket.Unreachable:
                continue  # what the run itself reads or writes will say so
            if over.is_set():  # it was released meanwhile
                return
            self.generation = None
            ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as in a job of the background
            if not ignored:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            with contextlib.suppress(bucket.Unreachable):
                progress.say(f"{_in_use(self.folder)}; this run was out of reach and ends")
            if ignored:
                os._exit(1)  # nothing more may be written
            return

    def _written(self) -> bool:
        """Whether it is still ours; also where gcsfs asked twice for what was written at once."""
        written = bucket.write(self.at, self.content, self.generation)
        if written is None and bucket.read(self.at) == self.content:
            written = bucket.generation(self.at)
        self.generation = written or self.generation
        return written is not None

    def release(self) -> None:
        """Removes it, if it is still ours; one that stays ends by itself."""
        if self.generation is not None:
            with contextlib.suppress(bucket.Unreachable):
                bucket.remove(self.at, self.generation, patience=LOOK)


def _await_end(folder: epath.Path) -> None:
    """Returns when nobody holds the folder; ValueError as soon as its holder is seen to live."""
    at = folder / FILE
    first = bucket.generation(at)
    if first is None:
        return
    progress.say(f"{_in_use(folder, 'was')}: seeing for {DEAD:g} s whether it still is")
    end = time.monotonic() + DEAD
    while time.monotonic() < end:
        time.sleep(LOOK)
        now = bucket.generation(at)
        if now is None:
            return
        if now != first:
            raise ValueError(f"{_in_use(folder)}: wait for its end or use another --workdir")
    bucket.remove(at, first)


def _in_use(folder: epath.Path, word: str = "is") -> str:
    holder = (bucket.read(folder / FILE) or b"").decode(errors="replace").partition("\n")[0]
    return f"{folder} {word} in use by {holder or 'another run'}"
