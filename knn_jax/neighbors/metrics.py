"""Distances: a matmul that bounds them from below for all rows, and their exact value for a few.

Each metric is a value with these methods, all about a `centre` (1, dim) and in one floating type:

summary(rows, centre)       what `scores` needs of each row (row, ...), and the largest norms (...)
scores(query, rows, ...)    (query, row), larger for nearer rows
floor(score, query, ...)    no row of at most that score is nearer: rounding is counted in
distance(query, rows)       of any leading shape, free of cancellation
held                        arrays of the size of the scores that these need at once
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jax import lax

Coarse = Literal["bfloat16", "tensorfloat32"]
UNIT = {"bfloat16": 2.0**-8, "tensorfloat32": 2.0**-10}  # relative error of a number cut short


@dataclass(frozen=True)
class Euclidean:
    """|q - b|, or its square."""

    squared: bool = False
    held = 1

    def summary(self, rows, centre):
        norm = jnp.sum(jnp.square(rows - centre), -1)
        return norm / 2, norm.max()

    def scores(self, query, rows, summary, centre, coarse):
        """<q - m, b - m> - |b - m|^2 / 2; the exact pass leaves out <q - m, m>, to copy no row."""
        rows = rows - centre if coarse else rows
        return _product(query - centre, rows, coarse) - summary[None]

    def floor(self, score, query, largest, centre, coarse):
        query = query - centre
        own = jnp.sum(jnp.square(query), -1, keepdims=True)
        inner = 0.0 if coarse else jnp.sum(query * centre, -1, keepdims=True)
        # Norms multiplied in the matmul, and in <q - m, m>.
        reach = jnp.sqrt(largest) + (0.0 if coarse else 2 * jnp.sqrt(jnp.sum(jnp.square(centre))))
        bound = jnp.sqrt(own) * reach
        slack = rounding(query) * (3 * own + 3 * largest + 2 * bound) + 2 * _lost(coarse) * bound
        return self._of(own + 2 * inner - 2 * score - slack)

    def distance(self, query, rows):
        return self._of(jnp.sum(jnp.square(query - rows), -1))

    def _of(self, squared):
        return squared if self.squared else _root(squared)


@dataclass(frozen=True)
class InnerProduct:
    """-<q, b>: the nearest row has the largest product."""

    held = 1

    def summary(self, rows, centre):
        norm = jnp.sum(jnp.square(rows), -1)
        return jnp.zeros_like(norm), norm.max()

    def scores(self, query, rows, summary, centre, coarse):
        return _product(query, rows, coarse)

    def floor(self, score, query, largest, centre, coarse):
        bound = jnp.sqrt(jnp.sum(jnp.square(query), -1, keepdims=True)) * jnp.sqrt(largest)
        return -score - (3 * rounding(query) + _lost(coarse)) * bound

    def distance(self, query, rows):
        return -jnp.sum(query * rows, -1)


@dataclass(frozen=True)
class Cosine:
    """1 - <q, b> / (|q| |b|), in [0, 2]; 1 where either is zero."""

    held = 1

    def summary(self, rows, centre):
        norm = _norm(rows)[..., 0]
        return jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1.0), 0.0), ()

    def scores(self, query, rows, summary, centre, coarse):
        return _product(_direction(query), rows, coarse) * summary[None]

    def floor(self, score, query, largest, centre, coarse):
        return 1 - score - (8 * rounding(query) + 2 * _lost(coarse))

    def distance(self, query, rows):
        apart = jnp.sum(jnp.square(_direction(query) - _direction(rows)), -1) / 2
        return jnp.where(jnp.any(query != 0, -1) & jnp.any(rows != 0, -1), apart, 1.0)


@dataclass(frozen=True)
class Subspaces:
    """Sum over `count` equal parts of the dimensions of the Euclidean distances in them (paper 3)."""

    count: int

    @property
    def held(self):
        return 2 + self.count

    def summary(self, rows, centre):
        return jnp.sum(jnp.square(self._parts(rows - centre)), -1), ()

    def scores(self, query, rows, summary, centre, coarse):
        """Less the square of the sum of roots of lower bounds on the squared distances."""
        query, rows = self._parts(query - centre), self._parts(rows - centre)
        lost = 5 * rounding(query) + _lost(coarse)
        total = jnp.zeros((), query.dtype)
        for part in range(self.count):
            product = _product(query[:, part], rows[:, part], coarse)
            norms = jnp.sum(jnp.square(query[:, part]), -1)[:, None] + summary[None, :, part]
            squared = jnp.maximum((1 - lost) * norms - 2 * product, 0.0)
            # (a + b)^2 = a^2 + b^2 + 2 sqrt(a^2 b^2): a root less than to add roots
            both = jnp.minimum(total * squared, jnp.finfo(query.dtype).max)
            total = squared if part == 0 else total + squared + 2 * jnp.sqrt(both)
        return lax.optimization_barrier(-total)  # computed once for all that reads it

    def floor(self, score, query, largest, centre, coarse):
        return jnp.sqrt(-score) * (1 - (4 + 2 * self.count) * rounding(query))

    def distance(self, query, rows):
        return jnp.sum(_root(jnp.sum(jnp.square(self._parts(query - rows)), -1)), -1)

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


def _product(query, rows, coarse: Coarse | None):
    """(query, row) inner products, as exact as the type is unless `coarse`."""
    if coarse == "bfloat16":
        query, rows = query.astype(jnp.bfloat16), rows.astype(jnp.bfloat16)
        return jnp.matmul(query, rows.T, preferred_element_type=jnp.float32)
    precision = lax.Precision.DEFAULT if coarse else lax.Precision.HIGHEST  # DEFAULT is TF32 on a GPU
    return jnp.matmul(query, rows.T, precision=precision)


def _lost(coarse: Coarse | None) -> float:
    """Error of a product of two rounded numbers, relative."""
    return 0.0 if coarse is None else 2.1 * UNIT[coarse]


def rounding(x) -> float:
    """Error of a sum over the last axis, relative to the sum of magnitudes, in any order (gamma_D);
    with 8 roundings of each term."""
    return (x.shape[-1] + 8) * float(jnp.finfo(x.dtype).eps) / 2


def _root(squared):
    """The square root, of gradient zero at zero."""
    apart = squared > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)


def _norm(x):
    """(..., 1), of numbers whose squares may be no numbers."""
    scale = lax.stop_gradient(jnp.max(jnp.abs(x), -1, keepdims=True))
    scale = jnp.where(scale > 0, scale, 1.0)
    return scale * _root(jnp.sum(jnp.square(x / scale), -1, keepdims=True))


def _direction(x):
    norm = _norm(x)
    return x / jnp.where(norm > 0, norm, 1.0)
