"""Paper 1's Basic representation: a classifier trained by cross-entropy."""

from typing import Any

from knn_jax import losses
from knn_jax.defenses.defense import Defense, by_output


def basic(net: Any) -> Defense:
    """Cross-entropy on the net's output (paper 1, section 4.1)."""
    return by_output(net, lambda _, output, batch: losses.cross_entropy(output[0], batch.y))
