"""A network that decides by itself, in the place of a classifier by neighbours."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from knn_jax import losses, neighbors
from knn_jax.classifiers.check import Images, Labels

BATCH = 500  # images classified at once


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Network:
    """A network that decides by its largest logit, for attacks to judge. Make it with `network`.

    It has no references, and its logits are its soft votes.
    """

    logits: Any  # images -> (batch, class)
    classes: int = dataclasses.field(metadata={"static": True})
    k: int = dataclasses.field(default=1, metadata={"static": True})

    def predict(self, x: Images) -> Labels:
        """The class of the largest logit, the lowest among equals."""
        return _logits(self, x).argmax(1).astype(jnp.int32)

    def margin(self, x: Images, y: Labels) -> Float[Array, " batch"]:
        """The logit of class y less the largest other: fooled unless above zero."""
        return losses.margin(_logits(self, x), y)

    def references(self, x: Images, count: int | None = None) -> tuple[()]:
        """None."""
        return ()

    def soft_votes(
        self, x: Images, references: tuple[()], temperature: float | Float[Array, ""]
    ) -> Float[Array, "batch class"]:
        """The logits."""
        return self.logits(x)


def network(logits: Callable[[Images], Any], x: Images) -> Network:
    """The network's own decision on images like x, in place of its neighbours'.

    Raises ValueError unless `logits(x)` is (batch, class).
    """
    logits = logits if isinstance(logits, Partial) else Partial(logits)
    shape = jax.eval_shape(logits, x[:1]).shape
    if len(shape) != 2:
        raise ValueError(f"logits of shape {shape}: (batch, class) needed")
    return Network(logits, shape[1])


@jax.jit
def _logits(model, x):
    return neighbors.in_tiles(model.logits, BATCH)(x)
