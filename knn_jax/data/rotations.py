"""Images in four orientations, whose turns a network can be trained to tell (Gidaris et al. 2018)."""

import numpy as np

from knn_jax.data.dataset import Dataset, Split

TURNS = 4  # orientations of an image


def turned(images: np.ndarray, quarters: int) -> np.ndarray:
    """The images turned counter-clockwise, as the code of Sitawarin & Wagner 2019 turns them."""
    return np.rot90(images, quarters, (1, 2))


def rotated(dataset: Dataset) -> Dataset:
    """Every image in four orientations, labelled by the number of quarter turns."""

    def every(split: Split) -> Split:
        turns = np.repeat(np.arange(TURNS, dtype=np.int32), len(split.labels))
        return Split(np.concatenate([turned(split.images[:], n) for n in range(TURNS)]), turns)

    train, valid, test = map(every, dataset[:3])
    return Dataset(train, valid, test, TURNS)
