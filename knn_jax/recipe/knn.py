"""Neighbours that vote: training images in layers of the network, or its prototypes."""

import dataclasses

import jax
from jax.tree_util import Partial

from knn_jax import classifiers, defenses, neighbors, nets, values
from knn_jax.defenses import Defense
from knn_jax.display import progress
from knn_jax.neighbors.metric import check_metric
from knn_jax.recipe.classifier import Banked


@values.value
class KNN(Banked):
    """The k nearest training images vote, in one layer or several, whose votes are added."""

    layers: tuple[str, ...] = ("relu3",)
    """Layers that are searched."""
    k: int = 75
    """Neighbours that vote in each layer."""
    metric: neighbors.Metric = neighbors.Euclidean()
    """Distance by which neighbours are near."""

    def __post_init__(self):
        super().__post_init__()
        values.at_least(1, k=self.k)
        check_metric(self.metric)
        if not self.layers:
            raise ValueError("layers is empty: name at least one layer of the network")
        if isinstance(self.layers, str):
            raise ValueError(f"layers={self.layers!r}: give names of layers, as ('relu3',)")
        if len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers={self.layers}: each layer votes once")

    def label(self, defense):
        """The layers, joined."""
        return "+".join(self.layers)

    def told(self, defense):
        """How many neighbours vote, and where."""
        return f"{self.k}-NN on {self.label(defense)}"

    def check(self, defense, dataset):
        """Also for layers that the network lacks or the metric does not measure, and a k above the
        bank."""
        super().check(defense, dataset)
        rows = self.bank_rows(dataset)
        if self.k > rows:
            raise ValueError(f"k={self.k} neighbours asked of a bank of {rows} rows")
        module, shape = defense.module(dataset.classes), (1, *dataset.train.images.shape[1:])
        shapes = nets.layer_shapes(module, self.layers, shape)
        if isinstance(self.metric, neighbors.Subspaces):
            for layer, (_, dim) in zip(self.layers, shapes, strict=True):
                if dim % self.metric.count:
                    raise ValueError(
                        f"classifier.metric={self.metric}: the {dim} numbers of {layer} are no "
                        f"multiple of {self.metric.count}"
                    )

    def searched(self):
        """Those that it names."""
        return self.layers

    def on(self, layers):
        """They vote there."""
        return dataclasses.replace(self, layers=layers)

    def uncertified(self, defense):
        """Several layers, and distances other than the Euclidean one."""
        if len(self.layers) > 1 or self.metric != neighbors.Euclidean():
            return (
                f"certificates cover neighbours in one layer by l2: classifier.layers={self.layers}, "
                f"classifier.metric={self.metric}"
            )
        return (
            "" if defense.net.lipschitz else f"{type(defense.net).__name__} has no Lipschitz constant"
        )

    def fit(self, defense, trained, dataset):
        """k-NN on the layers."""
        images, labels = self.bank(dataset)
        features = nets.features(trained.net, trained.variables, self.layers, (1, *images.shape[1:]))
        if not self.uncertified(defense):
            features = Partial(precisely, features)
        return classifiers.knn(
            None if self.on_inputs(defense) else features,
            images,
            labels,
            k=self.k,
            metric=self.metric,
            names=self.layers,
            track=lambda batches: progress.track(batches, "fitting the bank"),
        )


@values.value
class Prototypes(Banked):
    """The nearest prototype decides, of those that `defenses.Repulsive` or `Prototypes` trained."""

    def label(self, defense):
        """Of the layer that they lie in."""
        return "prototypes"

    def told(self, defense):
        """One prototype decides."""
        return "1-NN on prototypes"

    def check(self, defense, dataset):
        """Also for a defense without prototypes."""
        super().check(defense, dataset)
        if not isinstance(defense, defenses.Repulsive | defenses.Prototypes):
            raise ValueError(f"{type(defense).__name__} trains no prototypes: use defenses.Repulsive")

    def searched(self):
        """The one that they lie in."""
        return ("points",)

    def uncertified(self, defense):
        """By another distance than the Euclidean one, or of features without a constant."""
        return self._among(defense).uncertified(defense)

    def fit(self, defense, trained, dataset):
        """The prototypes, among samples in the same features."""
        if not isinstance(trained.net, nets.PrototypesModule):
            raise ValueError(f"{type(defense).__name__} trains no prototypes: use defenses.Repulsive")
        samples = self._among(defense).fit(defense, trained, dataset)
        return classifiers.prototypes(samples, trained.net.rows(trained.variables))

    def _among(self, defense: Defense) -> KNN:
        metric = defense.metric if isinstance(defense, defenses.Repulsive) else neighbors.Euclidean()
        return KNN(layers=("points",), k=1, metric=metric, rows=self.rows)


def precisely(function, *args):
    """In full float32, whose rounding is what certificates allow for; accelerators take less."""
    with jax.default_matmul_precision("highest"):
        return function(*args)
