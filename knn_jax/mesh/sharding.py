"""Every sharding choice: which devices hold which rows of a bank and answer which queries."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import PyTree

ROWS, QUERIES = "rows", "queries"


def make(
    devices: Sequence[object] | None = None, *, rows: int | None = None, queries: int | None = None
) -> Mesh:
    """A mesh of all devices (or those given): a bank in `rows` parts, each on `queries` devices.

    By default the rows are spread over all devices. A process's devices are next to each other
    in the rows, so that it holds the rows that it reads.
    """
    chosen = np.array(jax.devices() if devices is None else devices)
    count = len(chosen)
    parts = count // (queries or 1) if rows is None else rows
    copies = count // (parts or 1) if queries is None else queries
    if parts * copies != count or parts < 1:
        raise ValueError(f"a mesh of {parts} x {copies} devices: there are {count}")
    return Mesh(chosen.reshape(parts, copies), (ROWS, QUERIES), axis_types=(AxisType.Auto,) * 2)


def batch(mesh: Mesh) -> NamedSharding:
    """The sharding that spreads a batch over all devices."""
    return NamedSharding(mesh, PartitionSpec((ROWS, QUERIES)))


def whole(mesh: Mesh) -> NamedSharding:
    """The sharding that puts the same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


@runtime_checkable
class Rows(Protocol):
    """What can be indexed by row numbers or a slice, and knows its shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        ...

    def __getitem__(self, rows: np.ndarray | slice, /) -> np.ndarray:
        """These rows."""
        ...


def taken(array: Rows, rows: np.ndarray, sharding: Sharding) -> jax.Array:
    """`array[rows]` on the devices; each process takes only the rows that its own devices hold."""

    def own(index):
        return array[rows[index[0]]]

    return jax.make_array_from_callback((len(rows), *array.shape[1:]), sharding, own)


def placed(tree: PyTree, sharding: Sharding) -> PyTree:
    """Arrays that every process holds, on the devices: each process places its own part.

    `jax.device_put` would first compare the whole of them between processes.
    """

    def one(leaf):
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(one, tree)
