"""Images in a folder, by class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from knn_jax import values
from knn_jax.data.dataset import Data, Split, Track, halves, inside
from knn_jax.data.resized import resized
from knn_jax.workdir import files

ENDINGS = (".png", ".jpg", ".jpeg")
MODES = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGB"}  # Pillow's, as read
Listed = list[tuple[Path, int]]  # files with their labels


@values.value
class Folder(Data):
    """PNG or JPEG images in one folder for each class: `path/train/CLASS/*.png` and
    `path/test/CLASS/*.png`, or `path/CLASS/*.png`, of which `test_fraction` are held out for tests.

    Classes are numbered in the order of their names. Images are all greyscale or all colour, of 8 bits
    and opaque, and of one size unless `size` is given; a JPEG is read as it is stored, whatever
    orientation its EXIF data tell. In each part the classes are spread evenly over the order, so that
    the first images are of all of them. Names that begin with a dot and other files are passed over.
    """

    path: str
    """Folder that holds one folder of images for each class, or folders `train` and `test` of these."""
    size: int = 0
    """Side in pixels of the square to which images are resized; 0: they stay as they are."""
    candidates: str = ""
    """Folder beside `train` and `test` from which RaCNN retrieves; empty: the training images."""
    test_fraction: float = 0.2
    """Share of the images held out for tests, by class, where there are no `train` and `test`."""
    test_seed: int = 0
    """Seed by which test images are drawn, where there are no `train` and `test`."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return files.local("path", self.path).resolve().name or self.path

    @property
    def place(self) -> str:
        """The folder's path."""
        return str(files.local("path", self.path))

    def __post_init__(self):
        super().__post_init__()
        files.local("path", self.path)
        values.at_least(0, size=self.size)
        inside(test_fraction=self.test_fraction)
        values.between(0, 2**32 - 1, test_seed=self.test_seed)

    def read(self, track):
        """The images as bytes; ValueError, with the file's name, for one that does not fit."""
        root = files.local("path", self.path)
        if not root.is_dir():
            raise ValueError(f"there is no folder {root}")
        parts = [root]
        if (root / "train").is_dir() and _folders(root / "train"):
            parts = [root / part for part in ("train", "test", self.candidates) if part]
        elif self.candidates:
            raise ValueError(
                f"candidates={self.candidates!r}: {root} needs folders train and test as well"
            )
        classes = _classes(parts[0])
        listed = [_listed(part, classes) for part in parts]
        first, _ = listed[0][0]
        shape = _pixels(first, self.size).shape
        splits = [
            self._decoded(spread, first, shape, track, f"decoding {part}")
            for part, spread in zip(parts, listed, strict=True)
        ]
        if len(splits) > 1:
            return splits
        return halves(self.place, splits[0], self.test_fraction, self.test_seed)

    def _decoded(
        self, listed: Listed, first: Path, shape: tuple[int, ...], track: Track, what: str
    ) -> Split:
        images = np.empty((len(listed), *shape), np.uint8)
        for row, (file, _) in enumerate(track(listed, what)):
            image = _pixels(file, self.size)
            if image.shape[2] != shape[2]:
                raise ValueError(
                    f"{file} has {_colours(image.shape)} and {first} {_colours(shape)}: make them alike"
                )
            if image.shape != shape:
                raise ValueError(
                    f"{file} is {_sides(image.shape)} pixels and {first} {_sides(shape)}: give "
                    f"size={min(shape[:2])}, say"
                )
            images[row] = image
        return Split(images, np.array([label for _, label in listed], np.int32))


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror}") from error


def _folders(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if entry.is_dir()]


def _classes(folder: Path) -> list[str]:
    classes = _folders(folder)
    if not classes:
        raise ValueError(
            f"{folder} holds no classes: it needs a folder of images for each, as {folder}/cat/1.png"
        )
    if len(classes) == 1:
        raise ValueError(f"{folder} holds one class only, {classes[0]}: it needs two or more")
    return classes


def _listed(folder: Path, classes: Sequence[str]) -> Listed:
    """Image files with their labels, every class spread evenly over the order."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder} beside train")
    odd = sorted(set(classes) ^ set(_folders(folder)))
    if odd:
        has = "lacks" if odd[0] in classes else "has"
        raise ValueError(f"{folder} {has} the class {odd[0]}, unlike train: both need the same classes")
    placed = []
    for label, name in enumerate(classes):
        images = [file for file in _entries(folder / name) if file.suffix.lower() in ENDINGS]
        if not images:
            raise ValueError(f"{folder / name} holds no image: {', '.join(ENDINGS)} are read")
        placed += [((row + 0.5) / len(images), label, file) for row, file in enumerate(images)]
    return [(file, label) for _, label, file in sorted(placed)]


def _pixels(file: Path, size: int) -> np.ndarray:
    """The bytes of an image (height, width, channel); ValueError, with its name, for what is none."""
    try:
        with Image.open(file, formats=("PNG", "JPEG")) as image:
            image.load()
    except Exception as error:  # Pillow, zlib and the disk each raise their own
        cause = " ".join(f"{error}".split()) or type(error).__name__
        raise ValueError(f"{file} is damaged or no PNG or JPEG: {cause}") from error
    if image.mode not in MODES:
        raise ValueError(f"{file} is of Pillow's mode {image.mode}: save it as 8-bit greyscale or RGB")
    clear = image.mode in ("LA", "RGBA") or "transparency" in image.info
    if clear and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise ValueError(f"{file} is transparent in places: save it without an alpha channel")
    pixels = np.asarray(image.convert(MODES[image.mode]))
    return resized(pixels.reshape(*pixels.shape[:2], -1), size)


def _sides(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _colours(shape: tuple[int, ...]) -> str:
    return "colours" if shape[2] == 3 else "grey only"
