"""What a defense is: a network and what it is trained for, as a value.

A new defense is one file: a class decorated by `values.value`, its knobs as fields, and `objective`, or
`unperturbed` where an adversary may perturb its images (`adversarial.Perturbable`). Checks that need no
data belong in `__post_init__`, all others in `check`.
"""

import abc
import dataclasses
from dataclasses import KW_ONLY
from typing import ClassVar

from jaxtyping import PyTree

from knn_jax import mesh, nets, training, values
from knn_jax.data import Dataset
from knn_jax.nets import Module, Net
from knn_jax.training import Objective, Optim, ReferenceRows
from knn_jax.workdir import Place


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network's module with its variables."""

    net: Module
    variables: PyTree


@values.value
class Defense(abc.ABC):
    """A way to train a network."""

    net: Net
    """Network that is trained."""
    _: KW_ONLY
    weights: str = ""
    """An .npz of PyTorch weights, used instead of training; empty: none."""

    classifies: ClassVar[bool] = True
    """Whether the network's outputs are logits of the data's classes."""
    one_image: ClassVar[bool] = False
    """Whether its loss is of one image and its class, so that an attack can follow it (`LossPGD`)."""
    only: ClassVar[type[Net] | None] = None
    """The networks that it trains; None: all that classify."""
    cites: ClassVar[str]
    """Its source: authors, year, arXiv number or title."""

    def __post_init__(self):
        if not isinstance(self.net, Net):
            raise ValueError(f"net={self.net!r}: give a network, as nets.digits_convnet()")
        self.check_net()

    def check_net(self) -> None:
        """Raises ValueError for a network that it does not train."""
        name = f"{type(self).__name__} trains no {type(self.net).__name__}"
        if self.only is None and not self.net.classifies:
            raise ValueError(f"{name}: give a network whose output is a logit for each class")
        if self.only is not None and not isinstance(self.net, self.only):
            raise ValueError(f"{name}: give nets.{self.only.__name__}")

    def module(self, classes: int) -> Module:
        """The network's module for data of so many classes."""
        return self.net.build(classes)

    def data(self, dataset: Dataset) -> Dataset:
        """What is trained on; by default the data as they are."""
        return dataset

    @abc.abstractmethod
    def objective(self, module: Module) -> Objective:
        """What the module is trained for."""

    def named_layers(self) -> tuple[str, ...]:
        """The layers of its network that its knobs name."""
        return ()

    def reference_rows(self, dataset: Dataset) -> ReferenceRows | None:
        """Images that each batch is given besides its own; by default none."""
        return None

    def check(self, dataset: Dataset, optim: Optim) -> None:
        """Raises ValueError, before any long work, for layers that the network lacks, weights that do
        not fit, and whatever else cannot be trained on these data so."""
        dataset = self.data(dataset)
        module, shape = self.module(dataset.classes), (1, *dataset.train.images.shape[1:])
        nets.layer_shapes(self.net.build(dataset.classes), self.named_layers(), shape)
        if self.weights:
            nets.load_weights(self.weights, module, shape)
        training.check(optim, self.objective(module))

    def fit(self, dataset: Dataset, optim: Optim, folder: Place) -> Trained:
        """The network with its weights, or trained from the latest checkpoint in the folder on."""
        dataset = self.data(dataset)
        module = self.module(dataset.classes)
        if self.weights:
            shape = (1, *dataset.train.images.shape[1:])
            return Trained(module, nets.load_weights(self.weights, module, shape))
        devices, beside = mesh.make(), self.reference_rows(dataset)
        objective = self.objective(module)
        return Trained(module, training.train(objective, dataset, optim, folder, devices, beside))

    def summary(self, trained: Trained) -> dict[str, float]:
        """What a report tells of the trained network, by name; by default nothing."""
        del trained
        return {}

    def plain(self) -> "Defense":
        """The same on images as they are, without an adversary or noise."""
        return self
