"""What a measure is: a number about a trained classifier that a report gives beside its accuracy.

A new measure is one file: a class decorated by `values.value`, its knobs as fields, and `run`.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import PyTree

from knn_jax import data
from knn_jax.classifiers import Votes
from knn_jax.neighbors import Metric

Arrays = dict[str, np.ndarray]
SECONDS = "seconds"


class Measured(NamedTuple):
    """What a measure found.

    summary   its part of report.json
    columns   arrays for results.csv by name, one entry for each image from the first
    pictures  PNG bytes by file name
    """

    summary: Mapping[str, object]
    columns: Mapping[str, np.ndarray] = {}
    pictures: Mapping[str, bytes] = {}


@runtime_checkable
class Context(Protocol):
    """The run that a measure is taken in: a trained classifier, its data, and what attacks found."""

    @property
    def name(self) -> str:
        """What is measured, as the title of a picture tells it: the recipe and what decides."""
        ...

    @property
    def layer(self) -> str:
        """The first layer that is searched."""
        ...

    @property
    def model(self) -> PyTree:
        """The classifier."""
        ...

    @property
    def dataset(self) -> data.Dataset:
        """Training, validation and test images."""
        ...

    @property
    def attacked(self) -> Mapping[str, Arrays]:
        """The `image`, `success` and `norm` of each attack, by its name and norm, as `pgd_linf`."""
        ...

    @property
    def seed(self) -> int:
        """The seed of everything that is drawn."""
        ...

    def over(
        self, name: str, function: Callable[..., dict], split: data.Split, settings: Sequence[object]
    ) -> Mapping[str, np.ndarray | float]:
        """The arrays of `function(model, key, x, y)` over all images of the split, and `seconds`, how
        long they took.

        It is called on one batch after the other; what an earlier run left of the same name, settings
        (which JSON can tell) and images is found again.
        """
        ...


class Measure(abc.ABC):
    """What a report says of a trained classifier beside its accuracy."""

    images: int
    """Number of test images that are measured, the first of the set."""

    needs: ClassVar[type] = Votes
    """What it asks of the classifier, a Protocol."""
    cites: ClassVar[str]
    """Its source: authors, year, arXiv number or title."""

    def check(self, dataset: data.Dataset, bank_rows: int) -> None:
        """Raises ValueError, before any long work, for what cannot be measured."""
        del bank_rows
        count = len(dataset.test.labels)
        if self.images > count:
            raise ValueError(
                f"{type(self).__name__}: images={self.images}: the test set has {count} images"
            )

    def check_layer(self, layer: str, dim: int, metric: Metric) -> None:
        """Raises ValueError, before any long work, for a first layer that it cannot be taken of, of so
        many dimensions."""
        del layer, dim, metric

    @abc.abstractmethod
    def run(self, context: Context) -> Measured:
        """Takes the measure. Raises ValueError for a classifier that it cannot be taken of."""

    def first(self, split: data.Split) -> data.Split:
        """The first images of a split, as many as are measured."""
        return data.Split(split.images[: self.images], split.labels[: self.images])


def join(found: Sequence[Measured]) -> Measured:
    """What several measures found as one.

    Measures that tell of the same thing under one key of report.json are joined there: seconds are
    added, and `n` is the least number of images of each.
    """
    summary: dict[str, object] = {}
    for measured in found:
        for key, told in measured.summary.items():
            summary[key] = _joined(summary.get(key), told)
    columns, pictures = ({k: v for one in found for k, v in part(one).items()} for part in _PARTS)
    return Measured(summary, columns, pictures)


_PARTS = (lambda one: one.columns), (lambda one: one.pictures)


def _joined(one: object, other: object) -> object:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return other
    told = one | other
    for key, rule in ((SECONDS, sum), ("n", min)):
        numbers = [part[key] for part in (one, other) if key in part]
        if numbers:
            told[key] = round(rule(numbers), 3)
    return told
