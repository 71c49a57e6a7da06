"""A file or folder in the place of a recipe's data."""

import dataclasses
from pathlib import Path

from knn_jax.data.dataset import Data
from knn_jax.data.folder import Folder
from knn_jax.data.npz import NPZ
from knn_jax.workdir import files


def at_path(path: str, like: Data) -> Data:
    """The .npz file or the folder of images at a path, with those knobs of `like` that it has too.

    Raises ValueError for a path that is neither.
    """
    place = files.place("path", path)
    if not isinstance(place, Path) and place.suffix != ".npz":
        files.local("path", path)  # a folder of images, in a bucket: refused
    kind = Folder if isinstance(place, Path) and place.is_dir() else NPZ
    if not files.exists(place):
        raise ValueError(f"there is no file or folder {place}")
    if kind is NPZ and place.suffix != ".npz":
        raise ValueError(f"{place} is neither an .npz file nor a folder of images")
    has = {field.name for field in dataclasses.fields(like)}
    both = [field.name for field in dataclasses.fields(kind) if field.name in has - {"path"}]
    return kind(path, **{name: getattr(like, name) for name in both})
