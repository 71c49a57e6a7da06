"""What a metric is: a distance is enough to be searched by, and bounds on it make the search fast.

    Metric           distance                                     every row is measured
    BoundedMetric    distance, quick, strays,                     a matmul bounds every row, and only
                     summary, scores, floor, held                 those that may be nearest are measured

A metric of one's own is a class with `distance`, which inherits from nothing:

    @dataclass(frozen=True)
    class Manhattan:
        def distance(self, query, rows):
            return jnp.sum(jnp.abs(query - rows), -1)

It is a static argument of compiled programs and therefore hashable: equal values share a program.
"""

from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from knn_jax.neighbors.precision import Coarse

Mode = Literal["in_place", "shifted", "centred"] | Coarse


@runtime_checkable
class Metric(Protocol):
    """A distance between points; the less, the nearer."""

    def distance(
        self, query: Float[Array, "*#shape dim"], rows: Float[Array, "*#shape dim"]
    ) -> Float[Array, "*#shape"]:
        """The distances of points whose leading axes broadcast against each other.

        It must be differentiable. Where it may be negative, as that of `InnerProduct`, a metric serves
        the search and not `classifiers.knn`, whose soft votes square it.
        """
        ...


@runtime_checkable
class BoundedMetric(Metric, Protocol):
    """A metric whose distances a matmul bounds from below, for all rows at once.

    Its methods take points less a `centre` (1, dim), all in one floating type. Scores are made in a
    `Mode`: `in_place` of rows where they lie; else of rows less the centre, which must be copied, but
    whose rounding is in proportion to what tells them apart. In the `centred` mode the rounding is also
    that of a block of dimensions, however many there are. What overflows makes scores that are no
    numbers, and those prove nothing.
    """

    @property
    def held(self) -> int:
        """How many arrays of the size of the scores are needed at once to make them."""
        ...

    def summary(self, rows: Array, centre: Array) -> Array:
        """What `scores` needs to know of each row, (row, ...), made once for a bank."""
        ...

    def scores(self, query: Array, rows: Array, summary: Array, centre: Array, mode: Mode) -> Array:
        """Scores (query, row) by a matmul, larger for nearer rows."""
        ...

    def floor(self, score: Array, query: Array, centre: Array, mode: Mode) -> Array:
        """A distance below which no row of at most that score can be: rounding and underflow are
        counted in."""
        ...

    def quick(self, query: Array, rows: Array) -> Array:
        """`distance` in fewer steps, which may be wrong where squares over- or underflow."""
        ...

    def strays(self, distance: Array, dim: int) -> Bool[Array, "..."]:
        """Whether a `quick` distance may be wrong for that reason."""
        ...


def fast_distance(metric: Metric, query: Array, rows: Array) -> Array:
    """Distances in the fewest steps that the metric knows."""
    return (metric.quick if isinstance(metric, BoundedMetric) else metric.distance)(query, rows)


def check_metric(metric: object, dim: int | None = None) -> None:
    """Raises ValueError for what is no metric, or none of points of `dim` dimensions."""
    name = type(metric).__name__
    if not isinstance(metric, Metric) or isinstance(metric, type):
        raise ValueError(
            f"metric={metric!r} has no distance(query, rows): give a value as neighbors.Euclidean()"
        )
    try:
        hash(metric)
    except TypeError:
        raise ValueError(f"{name} cannot be hashed: make it a frozen dataclass of numbers") from None
    if dim is None or isinstance(metric, BoundedMetric):
        return
    pair = (jax.ShapeDtypeStruct((*shape, dim), jnp.float32) for shape in ((2, 1), (1, 3)))
    shape = jax.eval_shape(metric.distance, *pair).shape
    if shape != (2, 3):
        raise ValueError(
            f"{name}.distance of points (2, 1, {dim}) and (1, 3, {dim}) is of shape {shape}: "
            "it must be (2, 3), one distance for each pair"
        )
