"""A network that classifies by its nearest prototype."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from knn_jax import neighbors
from knn_jax.nets.net import STATISTICS
from knn_jax.nets.repulsion import repulsive


class PrototypesModule(nn.Module):
    """`(x, train) -> (scores (batch, class), layers)`; layers are the body's and `points` (batch, dim).

    The points are the body's output, or one of its layers; the score of a class is how near its nearest
    prototype is: -|f - p|^2 if the metric is Euclidean, else minus the distance. With `count` = 0 there
    is one of each, far from all others and never changed (Serban, Poll & Visser 2021, eq. 5), kept
    among the statistics. Else they are parameters, `count` of each class, at first the points of the
    images of `init`, which come in the order of their classes.
    """

    body: PyTree  # a flax module that is `Bounded`
    classes: int
    metric: neighbors.Metric = neighbors.Euclidean()
    count: int = 0
    layer: str | None = None

    @nn.compact
    def __call__(self, x, train=False):
        output, taps = self.body(x, train)
        points = taps[self.layer] if self.layer else output
        rows = self._rows(points)
        if self.metric == neighbors.Euclidean():
            norms = jnp.sum(jnp.square(points), 1)[:, None] + jnp.sum(jnp.square(rows), 1)[None]
            scores = 2 * points @ rows.T - norms
        else:
            scores = -neighbors.fast_distance(self.metric, points[:, None], rows[None])
        return scores.reshape(len(x), self.classes, -1).max(2), {**taps, "points": points}

    def _rows(self, points):
        def fixed():
            key, dim = self.make_rng("params"), points.shape[1]
            return repulsive(key, self.classes, dim, self.metric)

        if not self.count:
            return self.variable(STATISTICS, "prototypes", fixed).value
        shape = self.classes * self.count, points.shape[1]
        return self.param("prototypes", lambda _: jnp.resize(points, shape))

    def rows(self, variables: PyTree) -> Float[Array, "class count dim"]:
        """The prototypes (class, count, dim)."""
        rows = variables["params" if self.count else STATISTICS]["prototypes"]
        return rows.reshape(self.classes, -1, rows.shape[1])

    def lipschitz(self, variables: PyTree, layer: str) -> float:
        """The body's: an upper bound of the L2 Lipschitz constant from image to layer."""
        inner = {name: held["body"] for name, held in variables.items() if "body" in held}
        return self.body.lipschitz(inner, (self.layer or "fc") if layer == "points" else layer)
