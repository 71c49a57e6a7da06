"""A few images that stand for a whole split."""

import numpy as np

from knn_jax.data.dataset import Split


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
    return split.rows(np.concatenate(rows)).floats(0, len(classes) * count)
