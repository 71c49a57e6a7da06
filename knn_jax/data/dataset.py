"""Images and labels in splits, and the value that says where they come from."""

import abc
import dataclasses
import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from sklearn.model_selection import train_test_split

from knn_jax import values
from knn_jax.data.stored import Stored
from knn_jax.values import given
from knn_jax.workdir import digest

T = TypeVar("T")
ROUNDED = 1e-6  # how far from [0, 1] a pixel may be by rounding


class Split(NamedTuple):
    """Images (row, height, width, channel), bytes or floats in [0, 1], and int32 labels (row,)."""

    images: np.ndarray | Stored
    labels: np.ndarray

    def floats(self, first: int, last: int) -> np.ndarray:
        """Those images as float32 in [0, 1]."""
        return given.floats(self.images[first:last])

    def rows(self, index: np.ndarray | slice) -> "Split":
        """The split of these rows; images that stay in their file are not read."""
        images = self.images
        chosen = images.rows(index) if isinstance(images, Stored) else images[index]
        return Split(chosen, self.labels[index])

    def digest(self) -> str:
        """A name for the images, the labels and their order."""
        images = self.images.digest() if isinstance(self.images, Stored) else self.images
        return digest(images, self.labels)


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
        """The images that are retrieved from."""
        return self.train if self.extra is None else self.extra

    def digest(self) -> str:
        """A name for all that it holds: every image and label of every split, in their order.

        It reads everything, 0.25 s for the 180 MB of CIFAR-10, but files whose digest is kept beside
        them, and is the same in any process. An image kept as floats and the same kept as bytes have
        other digests, as have those that were resized; it covers the decoded images that training
        reads, not the files that they were decoded from.
        """
        found = hashlib.blake2b(digest_size=16)
        for name, split in zip(self._fields, self, strict=True):
            if not isinstance(split, Split):
                found.update(f"{name} {split};".encode())
                continue
            for part, array in split._asdict().items():
                found.update(f"{name} {part} {array.dtype.str} {array.shape};".encode())
                if isinstance(array, Stored):
                    found.update(array.digest().encode())
                    continue
                for first in range(0, len(array), 1000):
                    found.update(np.ascontiguousarray(array[first : first + 1000]).data)
        return found.hexdigest()


@runtime_checkable
class Track(Protocol):
    """Wraps a loop that can be long, so that somebody sees how far it is."""

    def __call__(self, items: Sequence[T], what: str, /) -> Iterable[T]:
        """The items, as they are; `what` says in a few words what is done with them."""
        ...


def untracked(items: Sequence[T], what: str, /) -> Iterable[T]:
    """The items, without a word."""
    del what
    return items


@values.value
class Data(abc.ABC):
    """Where images and labels come from, and which training images are held out for validation."""

    _: dataclasses.KW_ONLY
    valid_fraction: float = 0.1
    """Share of the training images that is held out for validation, by class."""
    split_seed: int = 2019
    """Seed by which validation images are drawn from the training images."""
    train_images: int = 0
    """Training images used, the first of the set, with validation's; 0: all."""

    if TYPE_CHECKING:  # at run time a property here would stand in the way of a field in TFDS

        @property
        def name(self) -> str:
            """What a report calls the set."""
            ...

    @property
    def place(self) -> str:
        """What an error calls the set: its path if it has one."""
        return self.name

    def __post_init__(self):
        inside(valid_fraction=self.valid_fraction)
        values.between(0, 2**32 - 1, split_seed=self.split_seed)
        values.at_least(0, train_images=self.train_images)

    @abc.abstractmethod
    def read(self, track: Track) -> Sequence[Split]:
        """The training split, the test split and, where they were asked for, the candidates, unchecked.

        A subclass writes this alone; it raises ValueError for a set that it does not find.
        """

    def load(self, track: Track = untracked) -> Dataset:
        """The images and labels, the training images split by class into training and validation.

        `track(items, what)` wraps the one loop that can be long, the decoding of images. Raises
        ValueError for a set that is unknown or not prepared, and for images or labels that are unfit.
        """
        place = self.place
        train, *others = self.read(track)
        count = len(train.labels)
        if self.train_images > count:
            raise ValueError(f"train_images={self.train_images}: {place} has {count}; 0 is all")
        if self.train_images:
            train = train.rows(slice(self.train_images))
        train, *others = (checked(place, split) for split in (train, *others))
        classes = int(train.labels.max()) + 1
        for what, split in zip(("test", "candidate"), others, strict=False):
            if split.images.shape[1:] != train.images.shape[1:]:
                raise ValueError(
                    f"{place}: {what} images are {split.images.shape[1:]}, those of the training set "
                    f"{train.images.shape[1:]}"
                )
            if split.labels.max() >= classes:
                raise ValueError(
                    f"{place}: {what} label {split.labels.max()} is no class of the training set"
                )
        train, valid = halves(place, train, self.valid_fraction, self.split_seed)
        return Dataset(train, valid, others[0], classes, *others[1:])


def inside(**fractions: int | float) -> None:
    """Raises ValueError unless all lie between 0 and 1, where nothing is taken and all."""
    for name, fraction in fractions.items():
        if not 0 < fraction < 1:
            raise ValueError(f"{name}={fraction}: it must lie between 0 and 1")


def halves(place: str, split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """The split without a share held out by class, and that share, both in an order drawn by the seed
    (as Sitawarin & Wagner 2019 have them in their code).

    Raises ValueError where a class has one image only, or a part fewer images than there are classes.
    """
    index, counts = np.arange(len(split.labels)), np.bincount(split.labels)
    if counts.min() < 2:
        alone = counts.argmin()
        raise ValueError(f"{place}: one image of class {alone}; to hold images out by class takes two")
    count = math.ceil(fraction * len(index))
    if not len(counts) <= count <= len(index) - len(counts):
        raise ValueError(
            f"{place}: {count} of {len(index)} images are held out ({fraction}): both parts need one "
            f"of each of {len(counts)} classes"
        )
    both = train_test_split(index, test_size=fraction, random_state=seed, stratify=split.labels)
    rest, out = (split.rows(np.asarray(part)) for part in both)
    return rest, out


def paired(place: str, images: np.ndarray, labels: np.ndarray) -> Split:
    """A split of images with a channel, and labels as int32; ValueError for labels that are no
    integers."""
    odd, whole = np.arange(labels.size), labels
    if labels.dtype.kind in "iufb":
        with np.errstate(invalid="ignore"):
            whole = labels.astype(np.int32)
        odd = np.flatnonzero(whole != labels)
    if odd.size:
        what = labels.reshape(-1)[odd[0]]
        raise ValueError(f"{place}: label {what!s} ({labels.dtype}); labels must be 0, 1, ...")
    return Split(images[..., None] if images.ndim == 3 else images, whole)


def checked(place: str, split: Split) -> Split:
    """The split, with its images clipped to [0, 1] where rounding alone left it.

    Raises ValueError for images or labels that are unfit.
    """
    images, labels = split
    if images.dtype.kind not in "biuf":
        raise ValueError(f"{place}: images are {images.dtype}; they must be bytes or floats in [0, 1]")
    if images.ndim != 4 or labels.shape != images.shape[:1] or not images.size:
        raise ValueError(
            f"{place}: images {images.shape} and labels {labels.shape} must be (row, height, width, "
            "channel) and (row,), with at least one pixel"
        )
    if isinstance(images, np.ndarray) and images.dtype != np.uint8:
        low, high = images.min(), images.max()
        if not (low >= -ROUNDED and high <= 1 + ROUNDED):  # also when they are NaN
            raise ValueError(f"{place}: images reach from {low!s} to {high!s}; they must be in [0, 1]")
        if low < 0 or high > 1:
            split = Split(np.clip(images, 0, 1), labels)
    classes = np.unique(labels)
    missing = np.flatnonzero(classes != np.arange(len(classes)))
    if missing.size:
        what = f"label {classes[0]}" if classes[0] < 0 else f"no image of class {missing[0]}"
        raise ValueError(f"{place}: {what}; labels must be 0, 1, ... with images of each")
    return split
