"""A recipe brought to life: its network trained or loaded, and what decides on top of it, as values.

KNN          neighbours in one layer or several vote
Network      the network's own output decides
Prototypes   the nearest of the prototypes that were trained
Retrieval    the network answers among the rows that it retrieves (RaCNN)
"""

import dataclasses
import functools
import json
import math
from collections.abc import Collection, Mapping
from typing import cast

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import PyTree

from knn_jax import classifiers, defenses, losses, nets, values
from knn_jax.classifiers import Images, Labels, Votes
from knn_jax.data import Dataset
from knn_jax.defenses import Defense, Trained
from knn_jax.display import progress
from knn_jax.recipe.classifier import Classifier
from knn_jax.recipe.knn import KNN, Prototypes, precisely
from knn_jax.recipe.network import Network, Retrieval
from knn_jax.training import Batch, Optim
from knn_jax.workdir import Place, digest

__all__ = ["KNN", "Classifier", "Network", "Prototypes", "Retrieval", "System", "check", "system"]


@dataclasses.dataclass(frozen=True)
class System:
    """A recipe brought to life: its data, its classifier, and what surrounds it."""

    dataset: Dataset
    model: PyTree
    """The classifier."""
    lipschitz: float
    """Constant of its features; infinite where certificates do not cover it."""
    fingerprint: str
    """A name for the classifier and the data."""
    classifier: Classifier
    defense: Defense
    trained: Trained
    sources: Mapping[str, PyTree] = dataclasses.field(default_factory=lambda: {"model": None})
    """Other classifiers whose gradients attacks can follow, by name; None: its own."""

    def on_layers(self, layers: tuple[str, ...]) -> Votes:
        """k-NN on other layers of the network."""
        other = self.classifier.on(layers)
        if other == self.classifier:
            return self.model
        return cast(Votes, other.fit(self.defense, self.trained, self.dataset))

    def training_loss(self, source: PyTree) -> Partial:
        """The loss that the network was trained with, on images as they are, or the cross-entropy of
        another source."""
        if source is not None:
            return Partial(_cross_entropy, source)
        objective = self.defense.plain().objective(self.trained.net)
        return Partial(functools.partial(_trained_loss, objective.loss), self.trained.variables)

    def first_images(self, count: int) -> tuple[Images, Labels]:
        """The first test images and their labels."""
        test = self.dataset.test
        return jnp.asarray(test.floats(0, count)), jnp.asarray(test.labels[:count])


def _cross_entropy(network, x, y):
    return losses.cross_entropy(network.logits(x), y)


def _trained_loss(loss, variables, x, y):
    every = jnp.ones(len(x), bool)
    return loss(variables, jax.random.key(0), Batch(x, x, y, every))


def system(
    defense: Defense,
    classifier: Classifier,
    optim: Optim,
    dataset: Dataset,
    folder: Place,
    sources: Collection[str] = ("model",),
) -> System:
    """Trains or loads the network, fits the classifier, and makes the sources that attacks follow."""
    trained = defense.fit(dataset, optim, folder)
    model = classifier.fit(defense, trained, dataset)
    followed: dict[str, PyTree] = {"model": None}
    one = jnp.asarray(dataset.train.floats(0, 1))  # attacks start from the classifier's images
    if "substitute" in sources:
        progress.say("the substitute whose gradients are followed")
        plain = dataclasses.replace(optim, stopping_eps=None)
        other = defenses.CrossEntropy(defense.net).fit(dataset, plain, folder / "substitute")
        output = nets.output(other.net, other.variables)
        followed["substitute"] = classifiers.network(output, one)
    if "network" in sources:
        bare = trained.retriever if isinstance(trained, defenses.TrainedRaCNN) else trained
        output = nets.output(bare.net, bare.variables)
        followed["network"] = classifiers.network(output, one, top=model.top)
    if "held" in sources:
        followed["held"] = cast(classifiers.Retrieval, model).held()
    lipschitz = math.inf
    if not classifier.uncertified(defense) and isinstance(trained.net, nets.Bounded):
        layer = classifier.layers[0] if isinstance(classifier, KNN) else "points"
        lipschitz = precisely(trained.net.lipschitz, trained.variables, layer)
    told = json.dumps(values.told(classifier))
    fingerprint = digest(told, *jax.tree.leaves(model), dataset.digest())
    return System(dataset, model, lipschitz, fingerprint, classifier, defense, trained, followed)


def check(
    defense: Defense,
    classifier: Classifier,
    optim: Optim,
    dataset: Dataset,
    sources: Collection[str] = ("model",),
) -> None:
    """Raises ValueError, before any long work, for parts that do not go together."""
    defense.check(dataset, optim)
    classifier.check(defense, dataset)
    if "network" in sources and not (defense.classifies or isinstance(defense, defenses.RaCNN)):
        raise ValueError(
            f"evaluate.sources=network: {type(defense).__name__} trains no output that classifies"
        )
    if "held" in sources and not isinstance(classifier, Retrieval):
        raise ValueError(
            f"evaluate.sources=held is for fit.Retrieval, and it is {type(classifier).__name__}"
        )
    if "substitute" in sources:
        defenses.CrossEntropy(defense.net).check(dataset, optim)
    if dataset.extra is not None and not isinstance(defense, defenses.RaCNN):
        raise ValueError(
            "data.candidates are for defenses.RaCNN to retrieve from, and it is "
            f"{type(defense).__name__}"
        )
