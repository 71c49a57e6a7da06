"""A bank whose rows are spread over the devices of a mesh, of one process or of several."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes, lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Num, PyTree

from knn_jax.mesh import QUERIES, ROWS, whole
from knn_jax.neighbors.plan import Eligible
from knn_jax.neighbors.result import Neighbors, ordered
from knn_jax.values import given
from knn_jax.values.given import Lists


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sharded:
    """Rows over the `rows` axis of a mesh, padded to equal parts. Make it with `shard`."""

    rows: PyTree  # (padded row, dim)
    index: PyTree  # (padded row,) number of each row, -1 for padding
    labels: PyTree  # (padded row,) or None
    count: int = dataclasses.field(metadata={"static": True})
    mesh: Mesh = dataclasses.field(metadata={"static": True})
    firsts: tuple[int, ...] = dataclasses.field(metadata={"static": True})  # each process's first row

    def __getitem__(self, index: Int[Array, "..."]) -> Array:
        """The rows of these numbers, on every device: each adds those that it holds."""
        held = self.rows.shape[0] // len(self.firsts)
        firsts = jnp.asarray(self.firsts, index.dtype)
        process = jnp.searchsorted(firsts, index, side="right").astype(index.dtype) - 1
        rows = self.rows[index - firsts[process] + held * process]
        return lax.with_sharding_constraint(rows, whole(self.mesh))

    @property
    def shape(self) -> tuple[int, int]:
        """(row, dim) without the padding."""
        return self.count, self.rows.shape[1]

    @property
    def dtype(self) -> jnp.dtype:
        return self.rows.dtype


def shard(
    bank: Num[Array | np.ndarray, "row dim"] | Lists,
    mesh: Mesh,
    labels: Num[Array | np.ndarray, " row"] | Lists | None = None,
) -> Sharded:
    """The bank over a mesh of `knn_jax.mesh.make`; with several processes, each gives its own rows.

    Rows are numbered process by process. Each device is sent its own part and no more, so that the
    bank may be a memory-mapped file and need not fit on one host. Raises ValueError for a mesh whose
    parts are not whole for each process, for an empty bank, for one of 2^31 rows or more, and for
    integers that JAX cannot hold.
    """
    parts, processes = mesh.shape[ROWS], jax.process_count()
    if parts % processes:
        raise ValueError(
            f"{parts} parts of rows for {processes} processes: give mesh.make(rows=) a multiple"
        )
    held = given.rows("bank", bank)
    labels = None if labels is None else given.labels("labels", labels)
    if len(held.shape) != 2:
        raise ValueError(f"bank of shape {held.shape}: (row, dim) needed")
    local = len(held)
    check_rows(local)
    check_held("bank", held)
    counts = np.ravel(multihost_utils.process_allgather(np.int32(local))) if processes > 1 else [local]
    count, firsts = int(np.sum(counts)), tuple(int(n) for n in np.cumsum([0, *counts[:-1]]))
    before = firsts[jax.process_index()]
    if count == 0:
        raise ValueError("the bank is empty: give it at least one row")
    if labels is not None and np.shape(labels) != (local,):
        raise ValueError(f"labels of shape {np.shape(labels)}: one for each of {local} rows needed")
    check_held("labels", labels)
    each = -(-int(np.max(counts)) // (parts // processes))  # rows of a part
    check_rows(max(count, parts * each))
    start = jax.process_index() * (parts // processes) * each

    def spread(array, fill):
        shape = (parts * each, *array.shape[1:])

        def part(where):
            first = where[0].start or 0
            own = np.asarray(array[first - start : first - start + each])
            padding = [(0, each - len(own))] + [(0, 0)] * (own.ndim - 1)
            return np.pad(own, padding, constant_values=fill) if len(own) < each else own

        sharding = NamedSharding(mesh, PartitionSpec(ROWS))
        return jax.make_array_from_callback(shape, sharding, part)

    index = before + np.arange(local, dtype=np.int32)
    of_rows = None if labels is None else spread(labels, -1)
    return Sharded(spread(held, 0), spread(index, -1), of_rows, count, mesh, firsts)


def check_rows(count: int) -> None:
    """Raises ValueError for more rows than 32 bits can number."""
    if count > np.iinfo(np.int32).max:
        raise ValueError(f"a bank of {count} rows: indices are of 32 bits, so give 2^31 - 1 at most")


def check_held(name: str, array: object) -> None:
    """Raises ValueError for integers that would wrap, since JAX holds those of 64 bits in 32."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or not array.size:
        return
    held = np.iinfo(dtypes.canonicalize_dtype(array.dtype))
    for number in () if held.dtype == array.dtype else (int(array.min()), int(array.max())):
        if not held.min <= number <= held.max:
            raise ValueError(
                f"{name}: {number} is held by JAX as {held.dtype}, from {held.min} to {held.max}"
            )


def search_parts(
    search: Callable[..., Neighbors], query: Array, bank: Sharded, k: int, eligible: Eligible
) -> Neighbors:
    """`search(query, rows, k, eligible)` on each part, merged; the same on every device.

    Between devices go k neighbours of each query from each part, and the merged answers.
    """
    mesh = bank.mesh
    parts = mesh.shape[ROWS]
    each = bank.rows.shape[0] // parts
    count = len(query)

    def pad(leaf):
        padding = jnp.broadcast_to(leaf[:1], (-count % mesh.size, *leaf.shape[1:]))
        return jnp.concatenate([leaf, padding])

    def local(rows, index, labels, query, only, without):
        there = None if bank.count == parts * each else index >= 0
        near = search(query, rows, min(k, each), Eligible(labels, only, without, there))
        number = jnp.where(near.index < 0, -1, index[jnp.maximum(near.index, 0)])
        # Each device merges some of the queries: what all parts found for them meets there.
        split = (leaf.reshape(parts, -1, *leaf.shape[1:]) for leaf in (near.distance, number))
        met = (jnp.moveaxis(lax.all_to_all(leaf, ROWS, 0, 0), 0, -2) for leaf in split)
        return ordered(Neighbors(*(leaf.reshape(*leaf.shape[:-2], -1) for leaf in met)), k)

    of_rows, of_queries = PartitionSpec(ROWS), PartitionSpec(QUERIES)
    near = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(of_rows, of_rows, of_rows, of_queries, of_queries, of_queries),
        out_specs=PartitionSpec((QUERIES, ROWS)),
        check_vma=False,
    )(bank.rows, bank.index, eligible.labels, *jax.tree.map(pad, (query, *eligible.each)))
    return Neighbors(*(lax.with_sharding_constraint(leaf, whole(mesh))[:count] for leaf in near))
