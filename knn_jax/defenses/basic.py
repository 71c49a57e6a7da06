"""Paper 1's Basic representation: a classifier trained by cross-entropy."""

from collections.abc import Callable
from typing import Any, NamedTuple

from knn_jax import losses


class Defense(NamedTuple):
    """A way to train a representation, as pure functions of its variables.

    init      (key, images) -> variables
    loss      (variables, key, images, labels) -> (batch,)
    logits    (variables, images) -> (batch, class)
    """

    init: Callable[..., Any]
    loss: Callable[..., Any]
    logits: Callable[..., Any]


def basic(net: Any) -> Defense:
    """Cross-entropy on the net's output (paper 1, section 4.1)."""

    def logits(variables, x):
        return net.apply(variables, x)[0]

    def loss(variables, key, x, y):
        del key
        return losses.cross_entropy(logits(variables, x), y)

    return Defense(net.init, loss, logits)
