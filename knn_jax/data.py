"""Images and labels: the embedded digits, any TFDS set, or an .npz file."""

import difflib
import hashlib
import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from knn_jax import config


class Split(NamedTuple):
    """Images (row, height, width, channel), bytes or floats in [0, 1], and int32 labels (row,)."""

    images: np.ndarray
    labels: np.ndarray

    def floats(self, first: int, last: int) -> np.ndarray:
        """Those images as float32 in [0, 1]."""
        images = self.images[first:last]
        if images.dtype == np.uint8:
            return images.astype(np.float32) / np.float32(255)
        return images.astype(np.float32)


class Dataset(NamedTuple):
    """Training, validation and test images of the classes 0 to `classes` - 1; `extra` ones, if any, are
    candidates for retrieval in place of the training images."""

    train: Split
    valid: Split
    test: Split
    classes: int
    extra: Split | None = None

    @property
    def candidates(self) -> Split:
        """What is retrieved from."""
        return self.train if self.extra is None else self.extra

    def digest(self) -> str:
        """A name for all that it holds: every image and label of every split, in their order.

        It reads everything, .25 s for the 180 MB of CIFAR-10, and is the same in any process. An image
        kept as floats and the same kept as bytes have other digests, as have those of TFDS that were
        resized; of a TFDS set it covers the decoded images that training reads, not the files that
        they were decoded from.
        """
        found = hashlib.blake2b(digest_size=16)
        for name, split in zip(self._fields, self, strict=True):
            if not isinstance(split, Split):
                found.update(f"{name} {split};".encode())
                continue
            for part, array in split._asdict().items():
                found.update(f"{name} {part} {array.dtype.str} {array.shape};".encode())
                for first in range(0, len(array), 1000):
                    found.update(np.ascontiguousarray(array[first : first + 1000]).data)
        return found.hexdigest()


TURNS = 4  # orientations of an image
ROUNDED = 1e-6  # how far from [0, 1] a pixel may be by rounding
Track = Callable[..., Iterable[Any]]


def load(knobs: config.Data, track: Track = lambda items, _: items) -> Dataset:
    """The set that the recipe names, its training images split by class.

    `track(items, what)` wraps the one loop that can be long, the first decoding of a TFDS set.
    Raises ValueError for an unknown or unprepared set and for images or labels that are unfit.
    """
    if knobs.size < 0:
        raise ValueError(f"data.size={knobs.size}: a side in pixels, or 0 to leave images as they are")
    if knobs.size and (knobs.name == "digits" or knobs.name.endswith(".npz")):
        raise ValueError(f"data.size={knobs.size} is for sets of TFDS: {knobs.name} keeps its size")
    if knobs.name == "digits":
        if knobs.candidates:
            raise ValueError(f"data.candidates={knobs.candidates!r}: the digits have no such split")
        train, test, *extra = _digits()
    elif knobs.name.endswith(".npz"):
        train, test, *extra = _npz(Path(knobs.name).expanduser(), knobs.candidates)
    else:
        train, test, *extra = _tfds(knobs, track)
    count = len(train.labels)
    if not 0 <= knobs.train_images <= count:
        raise ValueError(f"data.train_images={knobs.train_images}: {knobs.name} has {count}; 0 is all")
    train = Split(*(part[: knobs.train_images or None] for part in train))
    train, test, *extra = (_checked(knobs.name, split) for split in (train, test, *extra))
    classes = int(train.labels.max()) + 1
    for what, split in zip(("test", knobs.candidates), (test, *extra), strict=False):
        if split.images.shape[1:] != train.images.shape[1:]:
            raise ValueError(
                f"{knobs.name}: {what} images are {split.images.shape[1:]}, those of the training set "
                f"{train.images.shape[1:]}"
            )
        if split.labels.max() >= classes:
            raise ValueError(
                f"{knobs.name}: {what} label {split.labels.max()} is no class of the training set"
            )
    if not 0 < knobs.valid_fraction < 1:
        raise ValueError(f"data.valid_fraction={knobs.valid_fraction}: it must lie between 0 and 1")
    kept, held = _halves(knobs.name, train.labels, knobs.valid_fraction, knobs.split_seed)
    return Dataset(_rows(train, kept), _rows(train, held), test, classes, *extra)


def typical(split: Split) -> np.ndarray:
    """Two images that have the mean and the deviation, at each pixel, of all."""
    total, squares, count = 0.0, 0.0, len(split.labels)
    for first in range(0, count, 1000):
        images = split.floats(first, first + 1000).astype(np.float64)
        total, squares = total + images.sum(0), squares + np.square(images).sum(0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - np.square(mean), 0.0))
    return np.stack([mean - std, mean + std]).astype(np.float32)


def first_of_each(split: Split, count: int) -> np.ndarray:
    """The first `count` images of every class, class after class; where it has fewer, repeated."""
    classes = range(int(split.labels.max()) + 1)
    rows = [np.resize(np.flatnonzero(split.labels == label), count) for label in classes]
    return _rows(split, np.concatenate(rows)).floats(0, len(classes) * count)


def turned(images: np.ndarray, quarters: int) -> np.ndarray:
    """The images turned counter-clockwise, as paper 1's code turns them."""
    return np.rot90(images, quarters, (1, 2))


def rotated(dataset: Dataset) -> Dataset:
    """Every image in four orientations, labelled by the quarter turns (Gidaris et al. 2018)."""

    def every(split):
        turns = np.repeat(np.arange(TURNS, dtype=np.int32), len(split.labels))
        return Split(np.concatenate([turned(split.images, n) for n in range(TURNS)]), turns)

    train, valid, test = map(every, dataset[:3])
    return Dataset(train, valid, test, TURNS)


def _rows(split: Split, rows: np.ndarray) -> Split:
    return Split(split.images[rows], split.labels[rows])


def _halves(name: str, labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of a split by class, in the order that the authors of paper 1 had them.

    Raises ValueError where a class has one image only, or a part fewer images than there are classes.
    """
    rows, counts = np.arange(len(labels)), np.bincount(labels)
    if counts.min() < 2:
        alone = counts.argmin()
        raise ValueError(f"{name}: one image of class {alone}; to hold images out by class takes two")
    held = math.ceil(fraction * len(rows))
    if not len(counts) <= held <= len(rows) - len(counts):
        raise ValueError(
            f"{name}: {held} of {len(rows)} images are held out ({fraction}): both parts need one "
            f"of each of {len(counts)} classes"
        )
    kept, held = train_test_split(rows, test_size=fraction, random_state=seed, stratify=labels)
    return np.asarray(kept), np.asarray(held)


def _digits():
    """scikit-learn's 1,797 handwritten digits, 8x8; a fifth of them for tests."""
    bunch: Any = load_digits()
    every = Split((bunch.images[..., None] / 16).astype(np.float32), bunch.target.astype(np.int32))
    kept, held = _halves("digits", every.labels, 0.2, 0)
    return _rows(every, kept), _rows(every, held)


def _npz(path: Path, candidates: str):
    """train_ and test_images and _labels; or images and labels, a fifth of them for tests. And those of
    the candidates, if any."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with open(path, "rb") as stream, np.load(stream) as file:
            arrays = dict(file)
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged or no .npz of arrays: {error}") from error
    names = ["train", "test", *filter(None, [candidates])]
    if candidates and not {f"{candidates}_images", f"{candidates}_labels"} <= set(arrays):
        held = ", ".join(arrays)
        raise ValueError(f"data.candidates={candidates!r}: {path} holds {held}, no {candidates}_images")

    def split(prefix: str) -> Split:
        return _split(str(path), arrays[f"{prefix}images"], arrays[f"{prefix}labels"])

    if {"train_images", "train_labels", "test_images", "test_labels"} <= set(arrays):
        return [split(f"{name}_") for name in names]
    if {"images", "labels"} <= set(arrays):
        every = _checked(str(path), split(""))
        kept, held = _halves(str(path), every.labels, 0.2, 0)
        return _rows(every, kept), _rows(every, held), *(split(f"{name}_") for name in names[2:])
    raise ValueError(
        f"{path} holds {', '.join(arrays)}: it needs images and labels, or train_images, "
        "train_labels, test_images and test_labels"
    )


def _split(name: str, images: np.ndarray, labels: np.ndarray) -> Split:
    """Images with a channel, and labels as int32; raises ValueError for labels that are no integers."""
    odd, kept = np.arange(labels.size), labels
    if labels.dtype.kind in "iufb":
        with np.errstate(invalid="ignore"):
            kept = labels.astype(np.int32)
        odd = np.flatnonzero(kept != labels)
    if odd.size:
        what = labels.reshape(-1)[odd[0]]
        raise ValueError(f"{name}: label {what!s} ({labels.dtype}); labels must be 0, 1, ...")
    return Split(images[..., None] if images.ndim == 3 else images, kept)


def _checked(name: str, split: Split) -> Split:
    """The split, with its images clipped to [0, 1] where rounding alone left it.

    Raises ValueError for images or labels that are unfit.
    """
    images, labels = split
    if images.dtype.kind not in "biuf":
        raise ValueError(f"{name}: images are {images.dtype}; they must be bytes or floats in [0, 1]")
    if images.ndim != 4 or labels.shape != images.shape[:1] or not images.size:
        raise ValueError(
            f"{name}: images {images.shape} and labels {labels.shape} must be (row, height, width, "
            "channel) and (row,), with at least one pixel"
        )
    if images.dtype != np.uint8:
        low, high = images.min(), images.max()
        if not (low >= -ROUNDED and high <= 1 + ROUNDED):  # also when they are NaN
            raise ValueError(f"{name}: images reach from {low!s} to {high!s}; they must be in [0, 1]")
        if low < 0 or high > 1:
            split = Split(np.clip(images, 0, 1), labels)
    found = np.unique(labels)
    missing = np.flatnonzero(found != np.arange(len(found)))
    if missing.size:
        what = f"label {found[0]}" if found[0] < 0 else f"no image of class {missing[0]}"
        raise ValueError(f"{name}: {what}; labels must be 0, 1, ... with images of each")
    return split


def _tfds(knobs: config.Data, track: Track):
    """A prepared TFDS set, decoded once; afterwards from the arrays cached beside it."""
    import tensorflow_datasets as tfds  # half a second to import, and only wanted here

    root = Path(knobs.data_dir).expanduser()
    base = knobs.name.split("/")[0].split(":")[0]
    known = tfds.list_builders(with_community_datasets=False)
    if base not in known:
        near = difflib.get_close_matches(base, ["digits", *known], 1)
        hint = f"did you mean {near[0]!r}?" if near else "see tensorflow.org/datasets/catalog"
        raise ValueError(f"data.name={knobs.name!r} is no dataset: {hint}")
    # Asked here, because for a set that is not prepared TFDS tries the network for minutes.
    if not any(root.joinpath(base).glob("**/dataset_info.json")):
        raise ValueError(
            f"dataset {knobs.name!r} is not prepared in {root}: run once, with a network, "
            f"`pip install 'knn_jax[prepare]' && tfds build {knobs.name} --data_dir={root} "
            "--file_format=array_record`"
        )
    builder = tfds.builder(knobs.name, data_dir=root)
    features: Any = builder.info.features
    if not {"image", "label"} <= set(features):
        raise ValueError(f"{knobs.name} has {', '.join(features)}: it needs image and label")
    tests = [name for name in ("test", "validation") if name in builder.info.splits]
    if "train" not in builder.info.splits or not tests:
        have = ", ".join(builder.info.splits)
        raise ValueError(f"{knobs.name} has the splits {have}: it needs train, and test or validation")
    if len(tests) > 1 and _source(builder, "test")[0]["label"] < 0:
        tests.remove("test")  # ImageNet's has no labels
    names = ["train", tests[0]]
    if knobs.candidates:
        if knobs.candidates not in builder.info.splits:
            have = ", ".join(builder.info.splits)
            raise ValueError(
                f"data.candidates={knobs.candidates!r}: {knobs.name} has the splits {have}"
            )
        names.append(knobs.candidates)
    return [_decoded(builder, name, knobs.size, track) for name in names]


def _decoded(builder: Any, name: str, size: int, track: Track) -> Split:
    cache = Path(builder.data_dir) / f"decoded{size or ''}_{name}"
    files = [cache / f"{part}.npy" for part in Split._fields]
    if cache.is_dir():
        images, labels = (np.load(file, mmap_mode="r") for file in files)
        return Split(images, np.asarray(labels))
    source = _source(builder, name)
    images, labels = [], []
    for row in track(range(len(source)), f"decoding {builder.name} {name}"):
        record = source[row]
        images.append(_resized(record["image"], size))
        labels.append(record["label"])
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise ValueError(f"the images of {builder.name} differ in size: give data.size, say 128")
    split = _split(builder.name, np.stack(images), np.asarray(labels))
    try:
        with tempfile.TemporaryDirectory(dir=cache.parent) as scratch:
            half = Path(scratch) / "decoded"
            half.mkdir()
            for part, array in split._asdict().items():
                np.save(half / f"{part}.npy", array)
            os.replace(half, cache)  # whole or not at all
    except OSError:
        pass  # a set that others prepared, read-only: decode again next time
    return split


def _source(builder: Any, name: str) -> Any:
    try:
        return builder.as_data_source(name)
    except NotImplementedError as error:
        raise ValueError(
            f"{builder.name} is prepared as {builder.info.file_format.value}: read it by `tfds build "
            f"{builder.name} --data_dir={builder.data_dir.parent.parent} --file_format=array_record`"
        ) from error


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    if not size or image.shape[:2] == (size, size):
        return image
    from PIL import Image

    picture = Image.fromarray(image.squeeze()).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(size, size, -1)
