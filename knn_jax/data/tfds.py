"""Any image classification set of TensorFlow Datasets that has been prepared."""

import difflib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from knn_jax import values
from knn_jax.data.dataset import Data, Split, Track, paired
from knn_jax.data.resized import resized
from knn_jax.workdir import files


@values.value
class TFDS(Data):
    """A set of TensorFlow Datasets, prepared in the array_record format and read without TensorFlow.

    Its images are decoded once; afterwards they are read from arrays kept beside the set. Tests are
    those of its split `test`, or of `validation` where there is none or it has no labels (ImageNet).
    """

    name: str  # pyright: ignore[reportIncompatibleMethodOverride]
    """Name at tensorflow.org/datasets, as mnist or imagenette/160px-v2."""
    data_dir: str = "~/tensorflow_datasets"
    """Folder in which sets of TensorFlow Datasets are prepared."""
    size: int = 0
    """Side in pixels of the square that images are resized to; 0: as they are."""
    candidates: str = ""
    """Split from which RaCNN retrieves, as SVHN's extra; empty: training images."""

    def __post_init__(self):
        super().__post_init__()
        values.at_least(0, size=self.size)
        files.local("data_dir", self.data_dir)

    def read(self, track):
        """The splits; ValueError for a set that is unknown, not prepared, or not of labelled images."""
        builder = self._builder()
        features, splits = builder.info.features, builder.info.splits
        if not {"image", "label"} <= set(features):
            raise ValueError(f"{self.name} has {', '.join(features)}: it needs image and label")
        tests = [name for name in ("test", "validation") if name in splits]
        have = ", ".join(splits)
        if "train" not in splits or not tests:
            raise ValueError(
                f"{self.name} has the splits {have}: it needs train, and test or validation"
            )
        if len(tests) > 1 and _source(builder, "test")[0]["label"] < 0:
            tests.remove("test")  # ImageNet's has no labels
        names = ["train", tests[0]]
        if self.candidates:
            if self.candidates not in splits:
                raise ValueError(f"candidates={self.candidates!r}: {self.name} has the splits {have}")
            names.append(self.candidates)
        return [_decoded(builder, name, self.size, track) for name in names]

    def _builder(self) -> Any:
        import tensorflow_datasets as tfds  # half a second to import, and only wanted here

        root = files.local("data_dir", self.data_dir)
        base = self.name.split("/")[0].split(":")[0]
        known = tfds.list_builders(with_community_datasets=False)
        if base not in known:
            near = difflib.get_close_matches(base, ["digits", *known], 1)
            hint = f"did you mean {near[0]!r}?" if near else "see tensorflow.org/datasets/catalog"
            raise ValueError(f"name={self.name!r} is no set of TensorFlow Datasets: {hint}")
        # Asked here, because for a set that is not prepared TFDS tries the network for minutes.
        if not any(root.joinpath(base).glob("**/dataset_info.json")):
            raise ValueError(
                f"dataset {self.name!r} is not prepared in {root}: run once, with a network, "
                f"`pip install 'knn_jax[prepare]' && tfds build {self.name} --data_dir={root} "
                "--file_format=array_record`"
            )
        return tfds.builder(self.name, data_dir=root)


def _decoded(builder, name: str, size: int, track: Track) -> Split:
    """A split, from the arrays kept beside the set if there are any."""
    cache = Path(builder.data_dir) / f"decoded{size or ''}_{name}"
    parts = [cache / f"{part}.npy" for part in Split._fields]
    if cache.is_dir():
        images, labels = (np.load(part, mmap_mode="r") for part in parts)
        return Split(images, np.asarray(labels))
    source = _source(builder, name)
    images, labels = [], []
    for row in track(range(len(source)), f"decoding {builder.name} {name}"):
        record = source[row]
        images.append(resized(record["image"], size))
        labels.append(record["label"])
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise ValueError(f"the images of {builder.name} differ in size: give size=128, say")
    split = paired(builder.name, np.stack(images), np.asarray(labels))
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


def _source(builder, name: str) -> Sequence[Mapping[str, np.ndarray]]:
    try:
        return builder.as_data_source(name)
    except NotImplementedError as error:
        raise ValueError(
            f"{builder.name} is prepared as {builder.info.file_format.value}: read it by `tfds build "
            f"{builder.name} --data_dir={builder.data_dir.parent.parent} --file_format=array_record`"
        ) from error
