"""What follows from a classifier's votes: the class it decides for, whether that is right, by how much.

Ties are decided here and nowhere else. A class is ahead of another with more votes, or with as many
and the lower number. Where nobody votes (all counts are 0, or a logit is NaN) no class is named. Among
rows at the same distance the search takes the lower row first, so that votes themselves are decided.
"""

import abc

import jax.numpy as jnp
from jaxtyping import Array, Bool, Num

from knn_jax import losses
from knn_jax.classifiers.inputs import MOST, GivenImages, GivenLabels, Labels, check_labels

NOBODY = -1  # the class where nobody votes


class Decision(abc.ABC):
    """A classifier that decides by its `votes`, hard votes of neighbours or a network's logits."""

    top: int = 1  # classes that it names: it is right where the class is among these

    @abc.abstractmethod
    def votes(self, x: GivenImages) -> Num[Array, "batch class"]:
        """Of each class, (batch, class)."""

    def predict(self, x: GivenImages) -> Labels:
        """The class with most votes, the lowest among equals; -1 where nobody votes."""
        return predicted(self.votes(x))

    def right(self, x: GivenImages, y: GivenLabels) -> Bool[Array, " batch"]:
        """Whether class y is the one it predicts, or among the `top` that it names."""
        votes = self.votes(x)
        return right(votes, check_labels(y, len(votes), MOST), self.top)

    def margin(self, x: GivenImages, y: GivenLabels) -> Num[Array, " batch"]:
        """Votes of class y less the most of any other, or the `top`-th; 0 where nobody votes.

        It says by how much: at 0 only `right` knows who wins.
        """
        votes = self.votes(x)
        return margin(votes, check_labels(y, len(votes), MOST), self.top)


def predicted(votes: Num[Array, "batch class"]) -> Labels:
    """The class that such votes decide for, -1 where nobody votes."""
    return jnp.where(_any(votes), votes.argmax(1).astype(jnp.int32), NOBODY)


def right(votes: Num[Array, "batch class"], y: Labels, top: int = 1) -> Bool[Array, " batch"]:
    """Whether class y is among the `top` classes that such votes name."""
    own = jnp.take_along_axis(votes, y[:, None], 1)
    lower = jnp.arange(votes.shape[1])[None] < y[:, None]
    ahead = (votes > own) | ((votes == own) & lower)
    return _any(votes) & (jnp.sum(ahead, 1) < top)


def margin(votes: Num[Array, "batch class"], y: Labels, top: int = 1) -> Num[Array, " batch"]:
    """Votes of class y less the `top`-th most of any other, 0 where nobody votes."""
    lead = losses.margin(votes, y, top)
    return jnp.where(_any(votes), lead, jnp.zeros_like(lead))


def _any(votes: Num[Array, "batch class"]) -> Bool[Array, " batch"]:
    if jnp.issubdtype(votes.dtype, jnp.integer):
        return votes.max(1) > 0
    return ~jnp.isnan(votes).any(1)
