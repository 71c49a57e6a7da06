"""Images in a file that are read when they are asked for, so that a set need not fit in memory."""

import contextlib
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Int

from knn_jax.workdir import files

READERS = 8  # threads that read rows which do not follow one another
FEW = 64  # rows that one thread reads by itself


class Stored:
    """Rows of an .npy file, in any order, indexed by a slice or by row numbers as an array is."""

    def __init__(self, file: Path, index: Int[np.ndarray, " row"] | None = None):
        self.file = file
        with open(file, "rb") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            whole, transposed, self.dtype = read(stream)
            self._first = stream.tell()
        self._row = int(self.dtype.itemsize * np.prod(whole[1:]))
        if transposed or os.path.getsize(file) != self._first + whole[0] * self._row:
            raise ValueError(f"{file.name} is not as long as it says")
        self._index = np.arange(whole[0]) if index is None else index
        self.shape: tuple[int, ...] = (len(self._index), *whole[1:])

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of numbers."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: slice | Int[np.ndarray, " some"]) -> np.ndarray:
        """Those rows, read."""
        rows = self._index[which]
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        parts = np.array_split(np.arange(len(rows)), max(1, min(READERS, len(rows) // FEW)))
        with open(self.file, "rb", buffering=0) as stream:

            def read(places):
                for run in np.split(places, np.flatnonzero(np.diff(rows[places]) != 1) + 1):
                    if len(run):
                        self._read(stream.fileno(), int(rows[run[0]]), found[run[0] : run[-1] + 1])

            if len(parts) == 1:
                read(parts[0])
            else:
                with ThreadPoolExecutor(len(parts)) as pool:
                    list(pool.map(read, parts))
        return found

    def rows(self, index: Int[np.ndarray, " some"] | slice) -> "Stored":
        """These rows in this order, of which none is read yet."""
        return Stored(self.file, self._index[index])

    def digest(self) -> str:
        """A name for the numbers and their order: that of the file, which is read for it once.

        It is kept beside the file, with its size and time of change, where that can be written.
        """
        kept, status = self.file.with_suffix(".digest.json"), os.stat(self.file)
        times = status.st_mtime_ns, status.st_ctime_ns  # the first can be set, by cp -p and others
        stamp = {"bytes": status.st_size, "changed": list(times)}
        with contextlib.suppress(OSError, ValueError, TypeError):
            told = json.loads(kept.read_text())
            if {key: told[key] for key in stamp} == stamp:
                return self._ordered(told["digest"])
        with open(self.file, "rb") as stream:
            digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        with contextlib.suppress(ValueError), files.whole(kept) as scratch:
            scratch.write_text(json.dumps({"digest": digest, **stamp}))
        return self._ordered(digest)

    def _ordered(self, digest: str) -> str:
        return hashlib.blake2b(digest.encode() + self._index.tobytes(), digest_size=16).hexdigest()

    def _read(self, descriptor: int, row: int, into: np.ndarray) -> None:
        view, place = into.reshape(-1).view(np.uint8).data, self._first + row * self._row
        while view:
            count = os.preadv(descriptor, [view], place)
            if not count:
                raise ValueError(f"{self.file} was cut short while it was read")
            view, place = view[count:], place + count
