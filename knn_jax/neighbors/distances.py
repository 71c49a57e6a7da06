"""The metrics of this package, each a value: four that a matmul bounds (see `metric.BoundedMetric`),
`Euclidean`, `InnerProduct`, `Cosine` and `Subspaces`, and `Chebyshev`, by which every row is measured.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, cast

import jax.numpy as jnp
from jax import lax

from knn_jax import values
from knn_jax.neighbors import precision, products
from knn_jax.neighbors.metric import Metric, check_metric

Name = Literal["l2", "squared_l2", "cosine", "inner_product", "linf"]


@values.value
class Euclidean:
    """|q - b|, or its square."""

    squared: bool = False
    """Whether the distance is squared: the same order, without the rounding of a root."""
    held = 1

    def summary(self, rows, centre):
        return jnp.sum(jnp.square(rows - centre), -1)

    def scores(self, query, rows, summary, centre, mode):
        """<q - m, b - m> (in place <q - m, b>) - |b - m|^2 / 2, and what it may lack."""
        shift = None if mode == "in_place" else centre
        norms = products.squares(rows, centre) if mode == "centred" else summary
        return (
            products.product(query - centre, rows, mode, shift)
            - precision.half(query, mode) * norms[None]
        )

    def floor(self, score, query, centre, mode):
        query = query - centre
        own = products.squares(query)[:, None]
        squared = 2 * (precision.half(query, mode) * own - score)
        if mode == "in_place":
            inner = jnp.sum(query * centre, -1, keepdims=True)
            lost = jnp.sqrt(own) * jnp.sqrt(jnp.sum(jnp.square(centre)))
            squared += 2 * (inner - 2 * precision.rounding(query) * lost)
        squared = squared * (1 - precision.rounding(query)) - precision.flushed(
            query
        )  # less when measured
        return squared if self.squared else products.root(squared)

    def distance(self, query, rows):
        length = products.length(lambda query, rows: query - rows, query, rows)[..., 0]
        return jnp.square(length) if self.squared else length

    def quick(self, query, rows):
        squared = jnp.sum(jnp.square(query - rows), -1)
        return squared if self.squared else products.root(squared)

    def strays(self, distance, dim):
        least = dim * precision.finfo(distance).tiny / precision.finfo(distance).eps
        return ~((distance > (least if self.squared else least**0.5)) & (distance < jnp.inf))


@values.value
class InnerProduct:
    """-<q, b>: the nearest row has the largest product."""

    held = 1

    def summary(self, rows, centre):
        return jnp.sqrt(jnp.sum(jnp.square(rows), -1) + precision.flushed(rows))

    def scores(self, query, rows, summary, centre, mode):
        """<q, b> and what it may lack."""
        own = self.summary(query, centre)[:, None]
        lost = (3 * precision.rounding(query) + precision.of_product(mode)) * own * summary[
            None
        ] + precision.flushed(query)
        return products.product(query, rows, mode) + lost

    def floor(self, score, query, centre, mode):
        return -score

    def distance(self, query, rows):
        product = jnp.sum(query * rows, -1)
        return jnp.where(product == 0, 0.0, -product)  # not -0, which sorts before 0

    quick = distance

    def strays(self, distance, dim):
        return jnp.zeros(distance.shape, bool)


@values.value
class Cosine:
    """1 - <q, b> / (|q| |b|), in [0, 2]; 1 where either is zero."""

    held = 1

    def summary(self, rows, centre):
        norm = products.norm(rows)[..., 0]
        least = precision.finfo(rows).tiny / precision.finfo(rows).eps
        usable = (norm > least) & (norm < 1 / least)  # beyond, products of the row as it is may flush
        return jnp.where(norm > 0, jnp.where(usable, 1 / jnp.where(usable, norm, 1.0), jnp.inf), 0.0)

    def scores(self, query, rows, summary, centre, mode):
        """<q, b> of directions; or, about that of the centre, as `Euclidean`."""
        query = products.direction(query)
        if mode == "in_place":
            return products.product(query, rows, mode) * summary[None]
        about = products.direction(centre), summary
        norms = products.squares(rows, *about)
        return (
            products.product(query - about[0], rows, mode, *about)
            - precision.half(query, mode) * norms[None]
        )

    def floor(self, score, query, centre, mode):
        lost = precision.rounding(query)
        if mode == "in_place":
            apart = 1 - score - 2 * lost
        else:  # directions whose lengths are each wrong by lost / 2 are lost^2 / 2 further apart
            own = products.squares(products.direction(query) - products.direction(centre))[:, None]
            apart = precision.half(query, mode) * own - score - 2 * lost**2
        apart = jnp.maximum(apart, 0.0)
        # Measured it is less by the rounding of a sum and of two directions.
        return apart * (1 - 4 * lost) - 4 * float(jnp.finfo(query.dtype).eps) * jnp.sqrt(apart)

    def distance(self, query, rows):
        apart = jnp.sum(jnp.square(products.direction(query) - products.direction(rows)), -1) / 2
        zero = ~(jnp.any(query != 0, -1) & jnp.any(rows != 0, -1))
        return jnp.where(zero & jnp.isfinite(apart), 1.0, apart)  # a zero beside an infinity: none

    quick = distance

    def strays(self, distance, dim):
        return jnp.zeros(distance.shape, bool)


@values.value
class Subspaces:
    """The sum of the Euclidean distances in equal parts of the dimensions (Qian, An & Su)."""

    count: int
    """Number of parts, of which the number of dimensions must be a multiple."""

    def __post_init__(self):
        values.at_least(1, count=self.count)

    @property
    def held(self):
        return 2 + self.count

    def summary(self, rows, centre):
        return jnp.sum(jnp.square(self._parts(rows - centre)), -1)

    def scores(self, query, rows, summary, centre, mode):
        """Less the square of the sum of roots of lower bounds on the squared distances."""
        query, rows = self._parts(query - centre), self._parts(rows - centre)
        lost = 5 * precision.rounding(query) + precision.of_product(mode)
        total = jnp.zeros((), query.dtype)
        for part in range(self.count):
            product = products.product(query[:, part], rows[:, part], mode)
            norms = jnp.sum(jnp.square(query[:, part]), -1)[:, None] + summary[None, :, part]
            squared = jnp.maximum((1 - lost) * norms - 2 * product - precision.flushed(query), 0.0)
            # (a + b)^2 = a^2 + b^2 + 2 sqrt(a^2 b^2): a root less than to add roots
            both = jnp.minimum(total * squared, jnp.finfo(query.dtype).max)
            total = squared if part == 0 else total + squared + 2 * jnp.sqrt(both)
        return lax.optimization_barrier(-total)  # computed once for all that reads it

    def floor(self, score, query, centre, mode):
        return jnp.sqrt(-score) * (1 - (4 + 2 * self.count) * precision.rounding(query))

    def distance(self, query, rows):
        return jnp.sum(
            products.length(lambda query, rows: self._parts(query - rows), query, rows)[..., 0], -1
        )

    def quick(self, query, rows):
        return jnp.sum(products.root(jnp.sum(jnp.square(self._parts(query - rows)), -1)), -1)

    def strays(self, distance, dim):
        least = (
            self.count * (dim * precision.finfo(distance).tiny) ** 0.5 / precision.finfo(distance).eps
        )
        return ~((distance > least) & (distance < jnp.inf))

    def _parts(self, x):
        return x.reshape(*x.shape[:-1], self.count, x.shape[-1] // self.count)


@values.value
class Chebyshev:
    """|q - b| in Linf: the largest difference of any coordinate."""

    def distance(self, query, rows):
        """Of gradient zero where the points are equal."""
        apart = query - rows
        return jnp.max(apart * jnp.sign(apart), -1)


NAMED: Mapping[str, Metric] = MappingProxyType(
    {
        "l2": Euclidean(),
        "squared_l2": Euclidean(squared=True),
        "cosine": Cosine(),
        "inner_product": InnerProduct(),
        "linf": Chebyshev(),
    }
)


def named(metric: object) -> Metric:
    """The metric of that name, or the metric itself.

    Raises ValueError for an unknown name, and for an object that is no metric.
    """
    if isinstance(metric, str):
        if metric not in NAMED:
            known = ", ".join(map(repr, NAMED))
            raise ValueError(f"metric={metric!r}: use {known}, or a value as neighbors.Subspaces(2)")
        return NAMED[metric]
    check_metric(metric)
    return cast(Metric, metric)
