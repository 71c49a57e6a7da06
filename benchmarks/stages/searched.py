"""Searches on the device beside NumPy's in float64: every kind of metric, type, restriction and way."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from knn_jax import mesh, neighbors
from knn_jax.neighbors.precision import Coarse
from stages.ledger import Figures

QUERIES, DIM, CLASSES = 64, 32, 5
ROWS = 12_000  # more than a small bank has, so that the search goes in two stages
CLOSE = 2e-5  # relative to the largest distance
Arrays = tuple[np.ndarray, np.ndarray]


def gaussian(rows: int = ROWS, offset: float = 0.0) -> Arrays:
    """Queries and a bank of numbers that do not tie."""
    random = np.random.default_rng(1)
    query, bank = (random.standard_normal((count, DIM), np.float32) for count in (QUERIES, rows))
    return query + np.float32(offset), bank + np.float32(offset)


def whole_numbers(dtype: type) -> Arrays:
    """Queries and a bank of few whole numbers, which tie often and whose sums are exact."""
    random = np.random.default_rng(2)
    query, bank = (random.integers(0, 4, (count, 8)).astype(dtype) for count in (QUERIES, ROWS))
    return query, bank


def with_none() -> Arrays:
    """Gaussian, with a NaN in one row, an infinity in another and a query that is none."""
    query, bank = gaussian()
    bank[7, 3], bank[70, 1], query[5, 2] = np.nan, np.inf, np.nan
    return query, bank


def l2(query, rows):
    return np.sqrt(np.square(query - rows).sum(-1))


def cosine(query, rows):
    lengths = np.linalg.norm(query, axis=-1) * np.linalg.norm(rows, axis=-1)
    return 1 - (query * rows).sum(-1) / lengths


def inner_product(query, rows):
    return -(query * rows).sum(-1)


def linf(query, rows):
    return np.abs(query - rows).max(-1)


def halves(query, rows):
    return sum(map(l2, np.split(query, 2, -1), np.split(rows, 2, -1)))


def compare(
    data: Callable[[], Arrays],
    distance=l2,
    k: int = 20,
    restricted: str = "",
    ties: bool = False,
    metric: neighbors.Metric | neighbors.Name = "l2",
    coarse: Coarse | None = None,
) -> Figures:
    """How many answers are wrong, and the largest error of a distance.

    An index may differ only where distances are equal up to rounding; where they are `ties` not even
    there, for these come lower row first.
    """
    query, bank = data()
    labels = np.arange(len(bank)) % CLASSES
    asked = np.arange(len(query)) % CLASSES
    kept = np.ones((len(query), len(bank)), bool)
    among: dict[str, jax.Array] = {}
    if restricted:
        among = {"labels": jnp.asarray(labels, jnp.int32), restricted: jnp.asarray(asked, jnp.int32)}
        kept = (labels[None] == asked[:, None]) == (restricted == "only")
    found = neighbors.search(
        jnp.asarray(query), jnp.asarray(bank), k, metric=metric, coarse=coarse, **among
    )
    every = np.stack([distance(q, bank.astype(np.float64)) for q in query.astype(np.float64)])
    every = np.where(kept & np.isfinite(every), every, np.inf)
    right = np.argsort(every, 1, kind="stable")[:, :k]
    there = np.take_along_axis(every, right, 1)
    index, told = np.asarray(found.index), np.asarray(found.distance, np.float64)
    none = ~np.isfinite(there)
    largest = np.abs(there[~none]).max()
    named = np.where(index < 0, np.inf, np.take_along_axis(every, np.maximum(index, 0), 1))
    with np.errstate(invalid="ignore"):  # where there is none, infinities are subtracted
        off = np.maximum(np.abs(told - there), np.abs(named - there)) / largest
    off = np.where(none, 0.0, off)
    wrong = np.where(none, (index != -1) | np.isfinite(told), ~(off <= CLOSE))
    if ties:
        wrong |= ~none & (index != right)
    wrong |= np.array([len(set(row[row >= 0])) < (row >= 0).sum() for row in index])[:, None]
    count = int(wrong.sum())
    return {
        "state": "wrong" if count else "done",
        "wrong": count,
        "error": float(np.nan_to_num(off, nan=np.inf).max()),
    }


def gradients() -> Figures:
    """The slope of the distances in the query, (q - b) / |q - b| of each neighbour."""
    query, bank = gaussian(500)

    def total(query):
        return neighbors.search(query, jnp.asarray(bank), 3).distance.sum()

    slope = np.asarray(jax.grad(total)(jnp.asarray(query)))
    index = np.asarray(neighbors.search(jnp.asarray(query), jnp.asarray(bank), 3).index)
    apart = (query[:, None] - bank[index]).astype(np.float64)
    right = (apart / np.linalg.norm(apart, axis=-1, keepdims=True)).sum(1)
    error = float(np.abs(slope - right).max())
    return {"state": "done" if error <= 1e-4 else "wrong", "wrong": int(error > 1e-4), "error": error}


def sharded() -> Figures:
    """A bank over all devices has the neighbours of one on the first."""
    query, bank = (jnp.asarray(a) for a in whole_numbers(np.float32))
    one = neighbors.search(query, bank, 20)
    other = neighbors.search(query, neighbors.shard(np.asarray(bank), mesh.make()), 20)
    wrong = int(np.sum(np.asarray(one.index) != np.asarray(other.index)))
    return {"state": "wrong" if wrong else "done", "wrong": wrong, "error": 0.0}


of = functools.partial
SEARCHES: dict[str, Callable[[], Figures]] = {
    "l2": of(compare, gaussian),
    "ties": of(compare, of(whole_numbers, np.float32), ties=True),
    "coarse bfloat16": of(compare, of(whole_numbers, np.float32), ties=True, coarse="bfloat16"),
    "coarse tensorfloat32": of(
        compare, of(whole_numbers, np.float32), ties=True, coarse="tensorfloat32"
    ),
    "coarse bfloat16, Gaussian": of(compare, gaussian, coarse="bfloat16"),
    "bytes": of(compare, of(whole_numbers, np.uint8), ties=True),
    "bfloat16": of(compare, of(whole_numbers, jnp.bfloat16), ties=True),
    "only one label": of(compare, gaussian, restricted="only"),
    "without one label": of(compare, gaussian, restricted="without"),
    "k = 800": of(compare, gaussian, k=800),
    "not numbers": of(compare, with_none),
    "far from the origin": of(compare, of(gaussian, ROWS, 100.0)),
    "cosine": of(compare, gaussian, cosine, metric="cosine"),
    "inner product": of(compare, gaussian, inner_product, metric="inner_product"),
    "linf": of(compare, of(gaussian, 2000), linf, metric="linf"),
    "subspaces": of(compare, gaussian, halves, metric=neighbors.Subspaces(2)),
    "small bank": of(compare, of(gaussian, 1000)),
    "every row": of(compare, of(gaussian, 100), k=60),
    "gradients": gradients,
    "over all devices": sharded,
}
