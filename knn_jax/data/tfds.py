"""Any image classification set of TensorFlow Datasets that has been prepared."""

import difflib
from pathlib import Path
from typing import Any

from knn_jax import values
from knn_jax.data import decoding
from knn_jax.data.dataset import Data, Split, Track
from knn_jax.workdir import files


@values.value
class TFDS(Data):
    """A set of TensorFlow Datasets, prepared in the array_record format and read without TensorFlow.

    Its images are decoded once, into files beside the set, which later runs read; those of 1 GiB and
    more stay there and are read batch by batch, so that a set need not fit in memory. Tests are those
    of its split `test`, or of `validation` where there is none or it has no labels (ImageNet).
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
        if len(tests) > 1 and int(_source(builder, "test")[0]["label"]) < 0:
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
    """A split, from the files kept beside the set if there are any."""
    folder = Path(builder.data_dir) / f"decoded{size or ''}_{name}"
    if folder.is_dir():
        return decoding.read(folder)
    return decoding.decode(_source(builder, name), f"{builder.name} {name}", size, folder, track)


def _source(builder, name: str) -> decoding.Source:
    try:
        return builder.as_data_source(name)
    except NotImplementedError as error:
        raise ValueError(
            f"{builder.name} is prepared as {builder.info.file_format.value}: read it by `tfds build "
            f"{builder.name} --data_dir={builder.data_dir.parent.parent} --file_format=array_record`"
        ) from error
