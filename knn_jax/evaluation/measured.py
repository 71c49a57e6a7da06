"""Measures of a recipe's system, over as many images as each asks for."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from knn_jax import nets
from knn_jax.classifiers import Votes
from knn_jax.data import Dataset, Split
from knn_jax.evaluation.attacked import Attacked
from knn_jax.evaluation.resumable import Resumable
from knn_jax.measures import Measure, Measured, join
from knn_jax.measures.measure import SECONDS, Arrays
from knn_jax.recipe import Recipe
from knn_jax.recipe.fit import KNN, System
from knn_jax.workdir import Place


class Run(NamedTuple):
    """The `measures.Context` of one measure."""

    recipe: Recipe
    system: System
    measure: Measure
    found: Attacked
    folder: Place

    @property
    def name(self) -> str:
        """The recipe, and what decides."""
        return f"{self.recipe.name}: {self.recipe.classifier.told(self.recipe.defense)}"

    @property
    def layer(self) -> str:
        """The first layer that is searched."""
        return self.recipe.classifier.label(self.recipe.defense).partition("+")[0]

    @property
    def model(self) -> Votes:
        """The classifier."""
        return self.system.model

    @property
    def dataset(self) -> Dataset:
        """Its data."""
        return self.system.dataset

    @property
    def attacked(self) -> Mapping[str, Arrays]:
        """What the attacks found, by their names and norms."""
        return {f"{label}_{norm}": results.arrays for (label, norm), results in self.found.items()}

    @property
    def seed(self) -> int:
        """The recipe's."""
        return self.recipe.evaluate.seed

    def over(
        self, name: str, function: Callable[..., dict], split: Split, settings: Sequence[object]
    ) -> dict[str, np.ndarray | float]:
        """The function's arrays over all images of the split, chunk by chunk."""
        chunks = Resumable(
            name,
            [*settings, split.digest()],
            self.system,
            len(split.labels),
            self.recipe.evaluate.chunk,
            self.folder,
            code=(self.measure,),
            seed=self.seed,
            split=split,
        )
        found = chunks.results(function, f"measuring {name.replace('_', ' ')}")
        return {**found.arrays, SECONDS: found.seconds}


def measure(recipe: Recipe, system: System, attacked: Attacked, folder: Place) -> Measured:
    """What all of the recipe's measures found."""
    runs = (Run(recipe, system, made, attacked, folder) for made in recipe.measures.values())
    return join([run.measure.run(run) for run in runs])


def check(recipe: Recipe, dataset: Dataset) -> None:
    """Raises ValueError, before any long work, for what cannot be measured."""
    classifier = recipe.classifier
    if not recipe.measures:
        return
    if not isinstance(classifier, KNN):
        name, given = next(iter(recipe.measures)), type(classifier).__name__
        raise ValueError(f"measures: {name} is of neighbours that vote, and the classifier is {given}")
    module, shape = recipe.defense.module(dataset.classes), (1, *dataset.train.images.shape[1:])
    layer = classifier.layers[0]
    [(_, dim)] = nets.layer_shapes(module, (layer,), shape)
    for made in recipe.measures.values():
        made.check(dataset, classifier.bank_rows(dataset))
        made.check_layer(layer, dim, classifier.metric)
