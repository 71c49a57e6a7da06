"""Images and labels in an .npz file."""

from knn_jax import values
from knn_jax.data.dataset import Data, Split, checked, halves, paired
from knn_jax.workdir import files


@values.value
class NPZ(Data):
    """An .npz file with the arrays train_images, train_labels, test_images and test_labels; or images
    and labels, of which a fifth is for tests."""

    path: str
    """Path of the .npz file."""
    candidates: str = ""
    """Prefix of the arrays, as `extra` of extra_images and extra_labels, from which RaCNN retrieves;
    empty: it retrieves from the training images."""

    @property
    def name(self) -> str:
        """The file's name."""
        return files.place("path", self.path).name

    @property
    def place(self) -> str:
        """The file's path."""
        return str(files.place("path", self.path))

    def __post_init__(self):
        super().__post_init__()
        files.place("path", self.path)

    def read(self, track):
        """The arrays as splits; ValueError for a file that lacks some or is damaged."""
        path = files.place("path", self.path)
        if not files.is_file(path):
            raise ValueError(f"there is no file {path}")
        arrays, extra = files.arrays(path), self.candidates
        names = ", ".join(arrays)
        if extra and not {f"{extra}_images", f"{extra}_labels"} <= set(arrays):
            raise ValueError(f"candidates={extra!r}: {path} holds {names}, no {extra}_images")

        def split(prefix: str) -> Split:
            return paired(self.place, arrays[f"{prefix}images"], arrays[f"{prefix}labels"])

        candidates = [split(f"{extra}_")] if extra else []
        if {"train_images", "train_labels", "test_images", "test_labels"} <= set(arrays):
            return split("train_"), split("test_"), *candidates
        if {"images", "labels"} <= set(arrays):
            every = checked(self.place, split(""))
            return *halves(self.place, every, 0.2, 0), *candidates
        raise ValueError(
            f"{path} holds {names}: it needs images and labels, or train_images, train_labels, "
            "test_images and test_labels"
        )
