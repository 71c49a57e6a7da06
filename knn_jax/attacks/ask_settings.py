"""What the ASK attack is told by name, and its numbers by layer."""

from collections.abc import Sequence
from typing import Required, TypedDict

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from knn_jax import balls, neighbors
from knn_jax.attacks.attack import Number
from knn_jax.classifiers import Votes

ByLayer = float | Sequence[float] | Float[Array, ""] | Float[Array, " layer"]


class Settings(TypedDict, total=False):
    """What `ask` takes by name, but for the temperature and weights that `tune` chooses."""

    eps: Required[Number]
    norm: balls.Norm
    steps: int
    step_size: Number | None
    restarts: int
    refresh: int
    k: int | None
    others: int | None
    metric: neighbors.Metric | neighbors.Name
    targeted: bool
    drawn: bool
    source: Votes | None


def by_layer(numbers):
    """A number for each layer, or one for all, as a tuple; () for None."""
    if numbers is None:
        return ()
    if isinstance(numbers, Tracer):
        return tuple(jnp.atleast_1d(numbers))
    if isinstance(numbers, Sequence):
        return tuple(numbers)
    return tuple(np.asarray(numbers).ravel().tolist())  # numpy's: a caller may be traced
