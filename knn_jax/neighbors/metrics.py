"""Distances: a matmul that bounds them from below for all rows, and their exact value for a few.

Each metric is a value with these methods, all about a `centre` (1, dim) and in one floating type:

summary(rows, centre)       what `scores` needs of each row (row, ...)
scores(query, rows, ...)    (query, row), larger for nearer rows
floor(score, query, ...)    no row of at most that score is nearer: rounding and underflow counted in
distance(query, rows)       of any leading shape, free of cancellation, overflow and underflow
quick(query, rows)          the same, sooner, but for
strays(distance, dim)       whether a `quick` distance may be wrong because squares over- or underflow
held                        arrays of the size of the scores that these need at once

Scores are made in a `Mode`: `in_place` of rows where they lie; else of rows less the centre, which must
be copied, but whose rounding is in proportion to what tells them apart. In the `centred` one it is also
that of a block of dimensions, however many there are. What overflows makes scores that are no numbers,
and those prove nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from knn_jax.neighbors import keys

Coarse = Literal["bfloat16", "tensorfloat32"]
Mode = Literal["in_place", "shifted", "centred"] | Coarse
BLOCK = 128  # dimensions that are summed first
UNIT = {"bfloat16": 2.0**-8, "tensorfloat32": 2.0**-10}  # relative error of a number cut short


@dataclass(frozen=True)
class Euclidean:
    """|q - b|, or its square."""

    squared: bool = False
    held = 1

    def summary(self, rows, centre):
        return jnp.sum(jnp.square(rows - centre), -1)

    def scores(self, query, rows, summary, centre, mode):
        """<q - m, b - m> (in place <q - m, b>) - |b - m|^2 / 2, and what it may lack."""
        shift = None if mode == "in_place" else centre
        norms = _squares(rows, centre) if mode == "centred" else summary
        return _product(query - centre, rows, mode, shift) - _half(query, mode) * norms[None]

    def floor(self, score, query, centre, mode):
        query = query - centre
        own = _squares(query)[:, None]
        squared = 2 * (_half(query, mode) * own - score)
        if mode == "in_place":
            inner = jnp.sum(query * centre, -1, keepdims=True)
            lost = jnp.sqrt(own) * jnp.sqrt(jnp.sum(jnp.square(centre)))
            squared += 2 * (inner - 2 * rounding(query) * lost)
        squared = squared * (1 - rounding(query)) - _flushed(query)  # less when measured
        return squared if self.squared else _root(squared)

    def distance(self, query, rows):
        length = _length(lambda query, rows: query - rows, query, rows)[..., 0]
        return jnp.square(length) if self.squared else length

    def quick(self, query, rows):
        squared = jnp.sum(jnp.square(query - rows), -1)
        return squared if self.squared else _root(squared)

    def strays(self, distance, dim):
        least = dim * _finfo(distance).tiny / _finfo(distance).eps
        return ~((distance > (least if self.squared else least**0.5)) & (distance < jnp.inf))


@dataclass(frozen=True)
class InnerProduct:
    """-<q, b>: the nearest row has the largest product."""

    held = 1

    def summary(self, rows, centre):
        return jnp.sqrt(jnp.sum(jnp.square(rows), -1) + _flushed(rows))

    def scores(self, query, rows, summary, centre, mode):
        """<q, b> and what it may lack."""
        own = self.summary(query, centre)[:, None]
        lost = (3 * rounding(query) + _lost(mode)) * own * summary[None] + _flushed(query)
        return _product(query, rows, mode) + lost

    def floor(self, score, query, centre, mode):
        return -score

    def distance(self, query, rows):
        product = jnp.sum(query * rows, -1)
        return jnp.where(product == 0, 0.0, -product)  # not -0, which sorts before 0

    quick = distance

    def strays(self, distance, dim):
        return jnp.zeros(distance.shape, bool)


@dataclass(frozen=True)
class Cosine:
    """1 - <q, b> / (|q| |b|), in [0, 2]; 1 where either is zero."""

    held = 1

    def summary(self, rows, centre):
        norm = _norm(rows)[..., 0]
        least = _finfo(rows).tiny / _finfo(rows).eps
        usable = (norm > least) & (norm < 1 / least)  # beyond, products of the row as it is may flush
        return jnp.where(norm > 0, jnp.where(usable, 1 / jnp.where(usable, norm, 1.0), jnp.inf), 0.0)

    def scores(self, query, rows, summary, centre, mode):
        """<q, b> of directions; or, about that of the centre, as `Euclidean`."""
        query = _direction(query)
        if mode == "in_place":
            return _product(query, rows, mode) * summary[None]
        about = _direction(centre), summary
        norms = _squares(rows, *about)
        return _product(query - about[0], rows, mode, *about) - _half(query, mode) * norms[None]

    def floor(self, score, query, centre, mode):
        lost = rounding(query)
        if mode == "in_place":
            apart = 1 - score - 2 * lost
        else:  # directions whose lengths are each wrong by lost / 2 are lost^2 / 2 further apart
            own = _squares(_direction(query) - _direction(centre))[:, None]
            apart = _half(query, mode) * own - score - 2 * lost**2
        apart = jnp.maximum(apart, 0.0)
        # Measured it is less by the rounding of a sum and of two directions.
        return apart * (1 - 4 * lost) - 4 * float(jnp.finfo(query.dtype).eps) * jnp.sqrt(apart)

    def distance(self, query, rows):
        apart = jnp.sum(jnp.square(_direction(query) - _direction(rows)), -1) / 2
        zero = ~(jnp.any(query != 0, -1) & jnp.any(rows != 0, -1))
        return jnp.where(zero & jnp.isfinite(apart), 1.0, apart)  # a zero beside an infinity: none

    quick = distance

    def strays(self, distance, dim):
        return jnp.zeros(distance.shape, bool)


@dataclass(frozen=True)
class Subspaces:
    """Sum over `count` equal parts of the dimensions of the Euclidean distances in them (paper 3)."""

    count: int

    @property
    def held(self):
        return 2 + self.count

    def summary(self, rows, centre):
        return jnp.sum(jnp.square(self._parts(rows - centre)), -1)

    def scores(self, query, rows, summary, centre, mode):
        """Less the square of the sum of roots of lower bounds on the squared distances."""
        query, rows = self._parts(query - centre), self._parts(rows - centre)
        lost = 5 * rounding(query) + _lost(mode)
        total = jnp.zeros((), query.dtype)
        for part in range(self.count):
            product = _product(query[:, part], rows[:, part], mode)
            norms = jnp.sum(jnp.square(query[:, part]), -1)[:, None] + summary[None, :, part]
            squared = jnp.maximum((1 - lost) * norms - 2 * product - _flushed(query), 0.0)
            # (a + b)^2 = a^2 + b^2 + 2 sqrt(a^2 b^2): a root less than to add roots
            both = jnp.minimum(total * squared, jnp.finfo(query.dtype).max)
            total = squared if part == 0 else total + squared + 2 * jnp.sqrt(both)
        return lax.optimization_barrier(-total)  # computed once for all that reads it

    def floor(self, score, query, centre, mode):
        return jnp.sqrt(-score) * (1 - (4 + 2 * self.count) * rounding(query))

    def distance(self, query, rows):
        return jnp.sum(_length(lambda query, rows: self._parts(query - rows), query, rows)[..., 0], -1)

    def quick(self, query, rows):
        return jnp.sum(_root(jnp.sum(jnp.square(self._parts(query - rows)), -1)), -1)

    def strays(self, distance, dim):
        least = self.count * (dim * _finfo(distance).tiny) ** 0.5 / _finfo(distance).eps
        return ~((distance > least) & (distance < jnp.inf))

    def _parts(self, x):
        return x.reshape(*x.shape[:-1], self.count, x.shape[-1] // self.count)


Metric = Euclidean | InnerProduct | Cosine | Subspaces
Name = Literal["l2", "squared_l2", "cosine", "inner_product"]
NAMED: dict[str, Metric] = {
    "l2": Euclidean(),
    "squared_l2": Euclidean(squared=True),
    "cosine": Cosine(),
    "inner_product": InnerProduct(),
}


def named(name: str) -> Metric:
    """The metric of that name; ValueError where there is none."""
    if name not in NAMED:
        raise ValueError(f"metric={name!r} is none of {', '.join(NAMED)}")
    return NAMED[name]


def check(coarse: str | None) -> None:
    """Raises ValueError for a precision that there is not."""
    if coarse is not None and coarse not in UNIT:
        raise ValueError(f"coarse={coarse!r} is none of {', '.join(UNIT)}")


def _product(query, rows, mode: Mode, centre=None, scale=None):
    """(query, row) inner products with rows * scale - centre, as exact as the type is unless coarse."""
    if mode == "bfloat16":
        query, rows = query.astype(jnp.bfloat16), _shifted(rows, centre, scale).astype(jnp.bfloat16)
        return jnp.matmul(query, rows.T, preferred_element_type=jnp.float32)
    # DEFAULT is TF32 on a GPU.
    precision = lax.Precision.DEFAULT if mode == "tensorfloat32" else lax.Precision.HIGHEST

    def product(query, rows, centre):
        return jnp.matmul(query, _shifted(rows, centre, scale).T, precision=precision)

    return (_by_blocks(product) if mode == "centred" else product)(query, rows, centre)


def _squares(x, centre=None, scale=None):
    """|x * scale - centre|^2."""
    return _by_blocks(lambda x, m: jnp.sum(jnp.square(_shifted(x, m, scale)), -1))(x, centre)


def _shifted(rows, centre, scale):
    rows = rows if scale is None else rows * scale[:, None]
    return rows if centre is None else rows - centre


def _by_blocks(function: Callable) -> Callable:
    """The sum of a function of blocks of the last axis, one after another."""

    def summed(*arrays):
        dim = arrays[0].shape[-1]
        first = (dim - 1) % BLOCK + 1

        def part(start, size):
            block = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, size, -1), arrays)
            return function(*block)

        def add(number, total):
            return total + part(first + number * BLOCK, BLOCK)

        blocks = (dim - first) // BLOCK
        return lax.fori_loop(0, blocks, add, part(0, first)) if blocks else part(0, dim)

    return summed


def _lost(mode: Mode) -> float:
    """Error of a product of two rounded numbers, relative."""
    return 2.1 * UNIT.get(mode, 0.0)


def _half(x, mode: Mode) -> float:
    """Of |a|^2 and |b|^2, less the errors that these and <a, b> <= (|a|^2 + |b|^2) / 2 may have."""
    return 0.5 - _summed(x, mode) - _lost(mode) / 2


def _summed(x, mode: Mode) -> float:
    """`rounding` of `_squares` and of `_product` in that mode."""
    dim = x.shape[-1]
    return _gamma(x, min(dim, BLOCK) + -(-dim // BLOCK) if mode == "centred" else dim)


def rounding(x) -> float:
    """Error of a sum over the last axis, relative to the sum of magnitudes, in any order (gamma_D);
    with 8 roundings of each term."""
    return _gamma(x, x.shape[-1])


def _gamma(x, terms: int) -> float:
    return (terms + 8) * float(jnp.finfo(x.dtype).eps) / 2


def _flushed(x) -> float:
    """What 2 <q, b>, |q|^2 and |b|^2 may lack because products below the least number became zero."""
    return 16 * x.shape[-1] * float(_finfo(x).tiny)


def _finfo(x):
    return jnp.finfo(x.dtype)


def _root(squared):
    """The square root, of gradient zero at zero."""
    apart = ~(squared <= 0)  # NaN stays NaN
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)


def _length(function, *arrays):
    """|function(*arrays)|, (..., 1), of numbers whose squares may be no numbers.

    By powers of two, which round nothing. The numbers are made twice, never to be held.
    """
    largest = jnp.max(jnp.abs(lax.stop_gradient(function(*arrays))), -1, keepdims=True)
    scale = keys.power_of_two(
        jnp.maximum(largest / 4, _finfo(largest).tiny)
    )  # its inverse is a number too
    # One barrier each: jax 0.11 cannot transpose one of several where not all have a tangent.
    numbers = function(*map(lax.optimization_barrier, arrays))
    return scale * _root(jnp.sum(jnp.square(numbers / scale), -1, keepdims=True))


def _norm(x):
    return _length(lambda x: x, x)


def _direction(x):
    norm = _norm(x)
    return x / jnp.where(norm > 0, norm, 1.0)
