"""What follows from a classifier's votes: the class it decides for, and by how much."""

import abc
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Num

from knn_jax import losses
from knn_jax.classifiers.check import Images, Labels


class Decision(abc.ABC):
    """A classifier that decides by its `votes`, hard votes of neighbours or a network's logits."""

    top: int = 1  # classes that it names: it is right where the class is among these

    @abc.abstractmethod
    def votes(self, x: Images) -> Any:
        """Of each class, (batch, class)."""

    def predict(self, x: Images) -> Labels:
        """The class with most votes, the lowest among equals."""
        return self.votes(x).argmax(1).astype(jnp.int32)

    def margin(self, x: Images, y: Labels) -> Num[Array, " batch"]:
        """Votes of class y less the most of any other, or the `top`-th: fooled unless above zero."""
        return losses.margin(self.votes(x), y, self.top)
