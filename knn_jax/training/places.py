"""Where checkpoints lie, one folder for each step: on a disk, or in a bucket with copies on a disk."""

import shutil
import tempfile
import weakref
from pathlib import Path

from etils import epath

from knn_jax.display import progress
from knn_jax.workdir import bucket


class Disk:
    """Checkpoints on a disk, where orbax reads and writes them."""

    def __init__(self, place: Path):
        self.place = self.folder = place

    def steps(self) -> list[int]:
        """Those that there are, latest first."""
        found = (step for step in self.place.glob("*") if step.name.isdecimal() and step.is_dir())
        return sorted((int(step.name) for step in found), reverse=True)

    def fetch(self, step: int) -> Path:
        """The folder of one."""
        return self.folder / str(step)

    def set_aside(self, step: int) -> None:
        """Gives one a name that is no checkpoint's."""
        aside = self.place / f".{step}.damaged"
        shutil.rmtree(aside, ignore_errors=True)  # an earlier one
        (self.place / str(step)).rename(aside)

    def keep(self, step: int) -> None:
        """Nothing: a new one is where it stays."""


class Bucket:
    """Checkpoints below a place in a bucket, and a folder with copies, which orbax reads and writes.

    The `last` file of a checkpoint is uploaded when all others are there, and without it that counts as
    none. So a folder that is copied from a bucket to a disk, or back, holds the same checkpoints.
    """

    def __init__(self, place: epath.Path, last: str):
        self.place, self.last = place, last
        self.folder = Path(tempfile.mkdtemp(prefix="knn_jax-checkpoints-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def steps(self) -> list[int]:
        """Those that are there to their end, latest first."""
        found = self._files()
        cut = [step for step, names in found.items() if self.last not in names]
        for step in cut:
            progress.say(f"checkpoint {self.place / str(step)} has no {self.last}: passed over")
        return sorted(found.keys() - cut, reverse=True)

    def fetch(self, step: int) -> Path:
        """The copy of one."""
        files = [f"{step}/{name}" for name in self._files()[step]]
        bucket.each(lambda name: bucket.download(self.place / name, self.folder / name), files)
        return self.folder / str(step)

    def set_aside(self, step: int) -> None:
        """Gives one a name that is no checkpoint's, and removes its copy."""
        aside = self.place / f".{step}.damaged"
        self._remove(f".{step}.damaged", bucket.below(aside))  # an earlier one
        names = bucket.below(self.place / str(step))
        bucket.each(lambda name: bucket.copy(self.place / str(step) / name, aside / name), names)
        self._remove(str(step), names)
        shutil.rmtree(self.folder / str(step))

    def keep(self, step: int) -> None:
        """Uploads the copy of a new one, and removes those of which there is no copy."""
        before = self._files()
        self._remove(str(step), before.pop(step, []))  # whose upload was cut short
        files = [file for file in (self.folder / str(step)).rglob("*") if file.is_file()]
        files.sort(key=lambda file: file.name == self.last)
        places = [self.place / str(file.relative_to(self.folder)) for file in files]
        *others, last = zip(files, places, strict=True)
        bucket.each(lambda pair: bucket.upload(*pair), others)
        bucket.upload(*last)
        for other, names in before.items():
            if not (self.folder / str(other)).exists():
                self._remove(str(other), names)

    def _files(self) -> dict[int, list[str]]:
        """The names of the files of each step."""
        found: dict[int, list[str]] = {}
        for name in bucket.below(self.place):
            step, _, rest = name.partition("/")
            if step.isdecimal() and rest:
                found.setdefault(int(step), []).append(rest)
        return found

    def _remove(self, folder: str, names: list[str]) -> None:
        """The last file first: what is left of a checkpoint then counts as none."""
        last, others = [], []
        for name in names:
            (last if name == self.last else others).append(self.place / folder / name)
        for part in (last, others):
            bucket.each(bucket.remove, part)
