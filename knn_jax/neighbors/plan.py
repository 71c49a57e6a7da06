"""What a search is, once its program is traced."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import dtypes, lax
from jaxtyping import Array, Bool, Int, PyTree

from knn_jax.neighbors import tiles
from knn_jax.neighbors.metric import Metric, Mode


class Plan(NamedTuple):
    """What is known when the program is traced."""

    k: int
    metric: Metric
    mode: Mode
    groups: int

    @property
    def kept(self) -> int:
        """Rows to be measured: more where the bounds are wider, or did not do."""
        narrow = 12 + self.k // 12
        spare = {"in_place": narrow, "shifted": narrow, "centred": 64 + self.k}
        return self.k + spare.get(self.mode, 8 + 2 * self.k)


class Eligible(NamedTuple):
    """Which rows each query may find; all without labels."""

    labels: Int[Array, " row"] | None = None
    only: Int[Array, "query *group"] | None = None
    without: Int[Array, " query"] | None = None
    there: Bool[Array, " row"] | None = None  # False where a shard is only padded

    @property
    def each(self) -> tuple:
        """What belongs to the queries, one entry for each of them."""
        return self.only, self.without

    def of(self, each: tuple) -> "Eligible":
        """The same for other queries."""
        return self._replace(only=each[0], without=each[1])

    def mask(self, first, rows: int, new):
        """(query, group, row) for a tile of rows, of which some may not be `new`; None if all are
        eligible."""
        mask = None if new is None else new[None, None]
        if self.labels is not None:
            label = lax.dynamic_slice_in_dim(self.labels, first, rows)[None, None]
            if self.without is not None:
                wanted = label != self.without[:, None, None]
            else:
                wanted = label == self.only.reshape(len(self.only), -1, 1)  # pyright: ignore
            mask = wanted if mask is None else mask & wanted
        if self.there is not None:
            there = lax.dynamic_slice_in_dim(self.there, first, rows)[None, None]
            mask = there if mask is None else mask & there
        return mask


def floating(*arrays: PyTree):
    """The type of distances: float64 if JAX holds any of the arrays so, else float32."""
    wide = any(dtypes.canonicalize_dtype(array.dtype) == jnp.float64 for array in arrays)
    return jnp.dtype(jnp.float64 if wide else jnp.float32)


def by_parts(function, query, eligible, each, *carry):
    """`function(query, eligible, *carry)` for at most `each` queries at a time."""

    def part(query, each, *carry):
        return function(query, eligible.of(each), *carry)

    return tiles.in_tiles(part, each)(query, eligible.each, *carry)
