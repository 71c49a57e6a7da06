"""What decides on top of a trained network, as a value: its bank, and what it can be fitted on."""

import abc
import dataclasses

import jax.numpy as jnp
import numpy as np

from knn_jax import nets, values
from knn_jax.classifiers import Images, Labels, OnHost, Scores, banked
from knn_jax.data import Dataset
from knn_jax.defenses import Defense, Trained


@values.value
class Classifier(abc.ABC):
    """What decides, on top of a trained network."""

    @abc.abstractmethod
    def fit(self, defense: Defense, trained: Trained, dataset: Dataset) -> Scores:
        """The classifier, with its bank."""

    @abc.abstractmethod
    def label(self, defense: Defense) -> str:
        """What it looks at, as reports and a paper's figures name it."""

    @abc.abstractmethod
    def told(self, defense: Defense) -> str:
        """What decides, in a few words: 75-NN on relu3, ..."""

    def check(self, defense: Defense, dataset: Dataset) -> None:
        """Raises ValueError, before any long work, for what it cannot be fitted on."""
        rows = self.bank_rows(dataset)
        missing = np.setdiff1d(np.arange(dataset.classes), dataset.train.labels[:rows])
        if missing.size:
            raise ValueError(
                f"no row of class {missing[0]} in a bank of {rows} rows: every class needs one"
            )

    def uncertified(self, defense: Defense) -> str:
        """Why no certificate of features covers it; empty where they do."""
        return f"certificates cover neighbours in one layer by l2, not {type(self).__name__}"

    def searched(self) -> tuple[str, ...]:
        """The layers in which rows vote; none where no rows do."""
        return ()

    def on(self, layers: tuple[str, ...]) -> "Classifier":
        """The same on other layers; ValueError where no rows vote in layers that can be chosen."""
        raise ValueError(f"layers={layers}: the classifier is {type(self).__name__}")

    def on_inputs(self, defense: Defense) -> bool:
        """Whether rows vote on the pixels themselves."""
        return isinstance(defense.net, nets.Pixels) and self.searched() == ("pixels",)

    def bank_rows(self, dataset: Dataset) -> int:
        """How many training images are in the bank."""
        return len(dataset.train.labels)

    def bank(self, dataset: Dataset) -> tuple[Images | OnHost, Labels]:
        """These images and their labels."""
        rows = self.bank_rows(dataset)
        some = dataset.train.rows(slice(rows))
        return banked(some.images), jnp.asarray(some.labels)


@values.value
class Banked(Classifier):
    """A classifier whose bank may be a part of the training images."""

    _: dataclasses.KW_ONLY
    rows: int = 0
    """Training images in the bank, the first so many; 0: all."""

    def __post_init__(self):
        values.at_least(0, rows=self.rows)

    def bank_rows(self, dataset):
        """As many as it asks for, if there are so many."""
        every = super().bank_rows(dataset)
        return min(self.rows or every, every)
