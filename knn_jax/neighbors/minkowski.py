"""The Minkowski distance, of which the Manhattan distance is one; every row is measured."""

import jax.numpy as jnp

from knn_jax import values


@values.value
class Minkowski:
    """(sum |q - b|^p)^(1/p): the Manhattan distance for p = 1."""

    p: float = 1.0
    """Exponent, at least 1."""

    def __post_init__(self):
        values.at_least(1, p=self.p)

    def distance(self, query, rows):
        """The distances, of gradient zero between equal points."""
        apart = jnp.abs(query - rows)
        largest = jnp.max(apart, -1, keepdims=True)
        scale = jnp.where(largest > 0, largest, 1.0)  # powers over- and underflow less
        total = jnp.sum((apart / scale) ** self.p, -1)
        some = total > 0
        root = jnp.where(some, jnp.where(some, total, 1.0) ** (1 / self.p), 0.0)
        return scale[..., 0] * root
