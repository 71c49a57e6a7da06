"""A network that classifies by its nearest prototype."""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from knn_jax import losses, prototypes

DIMS = 10  # of the output for each class, unless given (paper 5)


class Prototypes(nn.Module):
    """`(x, train) -> (scores (batch, class), taps)`; taps are the body's and its `points` (batch, dim).

    The points are the body's output, or one of its taps; the score of a class is how near its nearest
    prototype is: -|f - p|^2, -|f - p|_inf or cos(f, p) - 1. With `count` = 0 there is one of each,
    far from all others and never changed (paper 5, eq. 5), kept among the statistics. Else they are
    parameters, `count` of each class, at first the points of the images of `init`, which come in the
    order of their classes.
    """

    body: Any
    classes: int
    distance: Literal["l2", "linf", "cosine"] = "l2"
    count: int = 0
    tap: str = ""

    @nn.compact
    def __call__(self, x, train=False):
        output, taps = self.body(x, train)
        points = taps[self.tap] if self.tap else output
        rows = self._rows(points)
        if self.distance == "l2":
            norms = jnp.sum(jnp.square(points), 1)[:, None] + jnp.sum(jnp.square(rows), 1)[None]
            scores = 2 * points @ rows.T - norms
        else:
            scores = -losses.distance(points[:, None], rows[None], self.distance)
        return scores.reshape(len(x), self.classes, -1).max(2), {**taps, "points": points}

    def _rows(self, points):
        def fixed():
            key, dim = self.make_rng("params"), points.shape[1]
            return prototypes.repulsive(key, self.classes, dim, self.distance)

        if not self.count:
            return self.variable("batch_stats", "prototypes", fixed).value
        shape = self.classes * self.count, points.shape[1]
        return self.param("prototypes", lambda _: jnp.resize(points, shape))

    def rows(self, variables: Any) -> Any:
        """The prototypes (class, count, dim)."""
        rows = variables["params" if self.count else "batch_stats"]["prototypes"]
        return rows.reshape(self.classes, -1, rows.shape[1])

    def lipschitz(self, variables: Any, layer: str) -> float:
        """The body's: an upper bound of the L2 Lipschitz constant from image to tap."""
        inner = {name: held["body"] for name, held in variables.items() if "body" in held}
        return self.body.lipschitz(inner, (self.tap or "fc") if layer == "points" else layer)
