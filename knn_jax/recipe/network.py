"""A network that decides by itself: by its own output, or among the rows that it retrieves."""

import math
from typing import cast

from knn_jax import classifiers, defenses, nets, values
from knn_jax.nets.racnn import RaCNNModule
from knn_jax.recipe.classifier import Banked, Classifier


@values.value
class Network(Banked):
    """The network decides by its own output."""

    top: int = 1
    """Classes that it names, among which the right one must be (5 for accuracy@5)."""

    def label(self, defense):
        """Of its last layer."""
        return "output"

    def told(self, defense):
        """No neighbours."""
        return "the network alone"

    def check(self, defense, dataset):
        """Also for a network that learns no classes."""
        super().check(defense, dataset)
        if not defense.classifies:
            raise ValueError(
                f"{type(defense).__name__} trains no output that classifies: use fit.KNN(...)"
            )
        classifiers.check_top(self.top, dataset.classes)
        shape = self.bank_rows(dataset), *dataset.train.images.shape[1:]
        if classifiers.large(shape):
            fit = (classifiers.LARGE - 1) // (4 * math.prod(shape[1:]))
            raise ValueError(
                f"the {shape[0]} images that attacks start from take {4e-9 * math.prod(shape):.1f} GB: "
                f"give classifier.rows={fit} or fewer"
            )

    def fit(self, defense, trained, dataset):
        """Its logits, and the bank's images to start attacks from."""
        output = nets.output(trained.net, trained.variables)
        images, labels = self.bank(dataset)
        return classifiers.network(output, images[:], labels, top=self.top)


@values.value
class Retrieval(Classifier):
    """The network answers among the rows that it retrieves (Zhao & Cho 2018)."""

    top: int = 1
    """Classes that it names, among which the right one must be (5 for accuracy@5)."""

    def label(self, defense):
        """The layer retrieved by."""
        return defense.layer if isinstance(defense, defenses.RaCNN) else ""

    def told(self, defense):
        """How many rows are retrieved, and by which layer."""
        k = defense.neighbors if isinstance(defense, defenses.RaCNN) else 0
        return f"retrieval of {k} by {self.label(defense)}"

    def check(self, defense, dataset):
        """Also for another defense than RaCNN."""
        super().check(defense, dataset)
        if not isinstance(defense, defenses.RaCNN):
            raise ValueError(f"fit.Retrieval is for defenses.RaCNN, and it is {type(defense).__name__}")
        classifiers.check_top(self.top, dataset.classes)

    def fit(self, defense, trained, dataset):
        """The answering network on the candidates' keys."""
        if not (isinstance(defense, defenses.RaCNN) and isinstance(trained, defenses.TrainedRaCNN)):
            raise ValueError(f"{type(defense).__name__} trains nothing that retrieves")
        near = defense.candidates(trained.retriever, dataset.candidates, defense.neighbors)
        answering = nets.answering(cast(RaCNNModule, trained.net), trained.variables)
        return classifiers.retrieval(near, *answering, top=self.top)
