"""Which classes are given in error, of one run or of several."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from knn_jax.display.canvas import axes, png

NUMBERED = 20  # classes at most whose confusions are also written


def errors(
    labels: Int[np.ndarray, " image"], given: Int[np.ndarray, " image"]
) -> Int[np.ndarray, "class class"]:
    """How many images of each class (row) are given each other class (column); not those that are given
    none, -1."""
    classes = int(max(labels.max(), given.max())) + 1
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, given), (labels != given) & (given >= 0))
    return counts


def confusion(runs: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> bytes:
    """For each (title, labels, given) how often images of each class are given each other class
    (Serban et al. 2021, figure 5)."""
    figure, places = axes(1, len(runs), (4.2 * len(runs), 4.4))
    for axis, (title, labels, given) in zip(places[0], runs, strict=True):
        counts = errors(labels, given)
        classes = len(counts)
        axis.imshow(counts, cmap="Oranges")
        for (row, column), count in np.ndenumerate(counts):
            if count and classes <= NUMBERED:
                color = "white" if 2 * count > counts.max() else "black"
                axis.text(column, row, str(count), ha="center", va="center", fontsize=8, color=color)
        axis.set(xlabel="class given", ylabel="class")
        if classes <= NUMBERED:
            axis.set(xticks=range(classes), yticks=range(classes))
        nobody = int((given < 0).sum())
        axis.set_title(f"{title}; {nobody} are given no class" if nobody else title, fontsize=9)
    return png(figure)
