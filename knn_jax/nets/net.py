"""What a network is as a value, and what its module can do."""

import abc
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import PyTree

STATISTICS = "batch_stats"  # the variables that are not parameters, in flax's word


@runtime_checkable
class Module(Protocol):
    """A network as pure functions of its variables; flax modules are such."""

    def init(self, rngs: PyTree, *args: PyTree, **kwargs: PyTree) -> PyTree:
        """(key, images) -> variables."""
        ...

    def apply(self, variables: PyTree, *args: PyTree, **kwargs: PyTree) -> PyTree:
        """(variables, images, train) -> (output (batch, dim), layers by name, each (batch, dim)).

        `train` is for networks with batch normalisation: False for running statistics, or the mask of
        the examples that count in those of the batch.
        """
        ...


@runtime_checkable
class Bounded(Module, Protocol):
    """A module that bounds how far it moves two images apart; those of this library are such."""

    def lipschitz(self, variables: PyTree, layer: str) -> float:
        """An upper bound of the L2 Lipschitz constant from image to layer; inf where there is none."""
        ...


class Net(abc.ABC):
    """A network as a value: its sizes, and the module that they make."""

    batch_norm: ClassVar[bool] = False
    """Whether it normalises by the batch: a step of training then says which examples count."""
    classifies: ClassVar[bool] = True
    """Whether its output, of the image alone, is a logit for each class."""

    lipschitz: ClassVar[bool] = True
    """Whether its module is `Bounded`, and its bounds are finite."""

    @abc.abstractmethod
    def build(self, classes: int) -> Module:
        """The module; those of equal values are equal, and so share compiled programs."""
