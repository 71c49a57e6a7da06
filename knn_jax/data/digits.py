"""scikit-learn's handwritten digits, which come with it."""

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
        pixels, labels = load_digits(return_X_y=True)
        images = (np.reshape(pixels, (-1, 8, 8, 1)) / 16).astype(np.float32)
        every = Split(images, np.asarray(labels, np.int32))
        return halves(self.place, every, 0.2, 0)
