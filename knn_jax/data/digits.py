"""scikit-learn's handwritten digits, which come with it."""

from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from knn_jax import values
from knn_jax.data.dataset import Data, Split, halves


@values.value
class Digits(Data):
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels, a fifth of them for tests."""

    @property
    def name(self) -> str:
        """What a report calls the set."""
        return "digits"

    def read(self, track):
        """Training and test images, the same in any version of the split."""
        bunch: Any = load_digits()
        every = Split((bunch.images[..., None] / 16).astype(np.float32), bunch.target.astype(np.int32))
        return halves(self.place, every, 0.2, 0)
