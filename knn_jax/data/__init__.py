"""Images and labels: each kind of set is a value, `Data`, whose `load()` gives a `Dataset` of arrays.

    Digits()        scikit-learn's digits, which need no file
    TFDS(name)      a set of TensorFlow Datasets, prepared once
    NPZ(path)       arrays in an .npz file
    Folder(path)    PNG or JPEG images in one folder for each class

A kind of one's own is a class decorated by `values.value` that inherits from `Data` and writes `name`
and `read`, which returns the splits as arrays; `Data.load` checks them and holds out the validation
images. `augment` changes images at random while a network is trained.
"""

from knn_jax.data.at_path import at_path
from knn_jax.data.dataset import Data, Dataset, Split, Track
from knn_jax.data.digits import Digits
from knn_jax.data.folder import Folder
from knn_jax.data.npz import NPZ
from knn_jax.data.rotations import TURNS, rotated, turned
from knn_jax.data.samples import first_of_each, typical
from knn_jax.data.tfds import TFDS

__all__ = [
    "NPZ",
    "TFDS",
    "TURNS",
    "Data",
    "Dataset",
    "Digits",
    "Folder",
    "Split",
    "Track",
    "at_path",
    "first_of_each",
    "rotated",
    "turned",
    "typical",
]
