"""What a search is given: read, and refused where it cannot be answered."""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from knn_jax.neighbors.distances import Subspaces
from knn_jax.neighbors.metric import check_metric
from knn_jax.neighbors.plan import Eligible, floating
from knn_jax.neighbors.sharded import Sharded, check_held, check_rows
from knn_jax.values import given


def read_eligible(labels: object, only: object, without: object) -> Eligible:
    """The labels given, as integers; ValueError for what is none."""
    named = {"labels": labels, "only": only, "without": without}
    read: PyTree = {name: given.labels(name, one) for name, one in named.items() if one is not None}
    return Eligible(**read)


def check_integers(name: str, array: Array | np.ndarray | Sharded, dtype: DTypeLike) -> None:
    """Raises ValueError for integers that the floating type cannot hold."""
    exact = 2 ** (jnp.finfo(dtype).nmant + 1)
    if not jnp.issubdtype(array.dtype, jnp.integer) or np.iinfo(array.dtype).max <= exact:
        return
    cast = f"{name} is {array.dtype}, and distances are {dtype}"
    if isinstance(array, Tracer | Sharded):
        raise ValueError(f"{cast}: in a jit or over devices, cast it to {dtype} if it fits")
    array = np.asarray(array)
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if max(-low, high) > exact:
        raise ValueError(f"{cast}: {max(-low, high)} is above {exact}, up to which integers are exact")


def check(query, bank, k, metric, labels, only, without) -> None:
    """Raises ValueError for what cannot be answered."""
    if query.ndim not in (1, 2) or len(bank.shape) != 2:
        raise ValueError(
            f"query {query.shape} and bank {bank.shape} must be (query, dim), or (dim,) of one, "
            "and (row, dim)"
        )
    rows = bank.shape[0]
    if rows == 0:
        raise ValueError("the bank is empty: give it at least one row")
    check_rows(rows)
    if not 1 <= k <= rows:
        raise ValueError(f"k={k} neighbours asked of a bank of {rows} rows: use 1 to {rows}")
    if query.shape[-1] != bank.shape[1]:
        raise ValueError(
            f"query {query.shape} and bank {bank.shape} must be (query, dim) and (row, dim) of one dim"
        )
    if not query.shape[-1]:
        raise ValueError(f"query {query.shape} and bank {bank.shape}: no dimension to measure")
    for name, array in (("query", query), ("bank", bank)):
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            raise ValueError(f"{name} is {array.dtype}: give real numbers")
        check_integers(name, array, floating(query, bank))
    check_metric(metric, query.shape[-1])
    if isinstance(metric, Subspaces) and query.shape[-1] % metric.count:
        raise ValueError(f"{query.shape[-1]} dimensions are no multiple of {metric.count} subspaces")
    everyone = only is None and without is None
    own = isinstance(bank, Sharded) and bank.labels is not None
    if (everyone and labels is not None) or not (everyone or own or labels is not None):
        raise ValueError("labels go with only= or without=, and those with labels")
    if only is not None and without is not None:
        raise ValueError("only= and without= exclude each other: give one of them")
    if labels is not None and labels.shape != (rows,):
        raise ValueError(f"labels of shape {labels.shape}: one for each of {rows} rows needed")
    check_held("labels", labels)
    of_queries = query.shape[:-1]
    each = f"for each of {len(query)} queries " if of_queries else ""
    for name, asked in (("only", only), ("without", without)):
        check_held(name, asked)
        shape = of_queries if asked is None else asked.shape
        if shape[: len(of_queries)] != of_queries or (name == "without" and shape != of_queries):
            raise ValueError(f"{name} of shape {shape}: one {each}needed")
