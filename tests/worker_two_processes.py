"""One of two processes: python tests/worker_two_processes.py PORT PROCESS MODE FOLDER.

In the mode 'trains' it leaves what it trained in the folder; else it searches a bank that both share.
Prints 'ok' at the end. In the mode 'dies' process 1 then ends without a word while process 0 waits
for it in another search.
"""

import os
import sys
import time
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from knn_jax import data, defenses, mesh, neighbors, nets, training

ROWS, CUT, QUERIES, DIM, K, CLASSES = 1003, 600, 13, 16, 7, 5


def check(near, query, bank, numbers, eligible=True):
    """Neighbours against float64 brute force."""
    distance = np.sqrt(((query[:, None].astype(np.float64) - bank[None]) ** 2).sum(-1))
    distance = np.where(eligible, distance, np.inf)
    index = np.argsort(distance, 1, kind="stable")[:, : near.index.shape[1]]
    distance = np.take_along_axis(distance, index, 1)
    np.testing.assert_array_equal(near.index, np.where(np.isinf(distance), -1, numbers[index]))
    np.testing.assert_allclose(near.distance, distance, rtol=2e-6)


def to_train():
    """A small network and 200 digits."""
    found = data.Digits().load()
    few = found._replace(train=data.Split(*(part[:200] for part in found.train)))
    defense = defenses.CrossEntropy(nets.ConvNet(((4, 3, 2, 1),)))
    return defense.objective(defense.module(10)), few


def train(folder, me):
    """One epoch, and another from its checkpoint."""
    defense, few = to_train()
    for epochs in (1, 2):
        found = training.train(
            defense, few, training.Optim(epochs=epochs, stopping_eps=0.1), folder / "both", mesh.make()
        )
    np.savez(folder / f"{me}.npz", **{str(i): leaf for i, leaf in enumerate(jax.tree.leaves(found))})


def share(me, mode):
    """Searches of a bank of which each process has some rows."""
    search = jax.jit(neighbors.search, static_argnames="k")
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(ROWS, DIM)).astype(np.float32)
    query = rng.normal(size=(QUERIES, DIM)).astype(np.float32)
    labels = rng.integers(CLASSES, size=ROWS).astype(np.int32)
    own, numbers = (slice(0, CUT), slice(CUT, None))[me], np.arange(ROWS)

    only = np.arange(QUERIES, dtype=np.int32) % CLASSES
    shards = neighbors.shard(bank[own], mesh.make(rows=4), labels[own])
    assert shards.shape == bank.shape
    assert {part.data.shape for part in shards.rows.addressable_shards} == {(CUT // 2, DIM)}
    check(search(query, shards, K, only=only), query, bank, numbers, labels == only[:, None])
    if mode == "stays":
        shards = neighbors.shard(bank[own], mesh.make(rows=2))
        assert {part.data.shape for part in shards.rows.addressable_shards} == {(CUT, DIM)}
        check(search(query, shards, K), query, bank, numbers)
        # One process has no rows at all.
        few = neighbors.shard(bank[:0] if me == 0 else bank[:5], mesh.make(rows=2))
        check(search(query, few, 5), query, bank[:5], numbers)
        refused = ""
        try:
            neighbors.shard(bank[own], mesh.make(rows=1))
        except ValueError as error:
            refused = str(error)
        assert "1 parts of rows for 2 processes" in refused
    if mode == "dies":
        print("ok", flush=True)
        multihost_utils.sync_global_devices("both are right")
        if me == 1:
            time.sleep(2)  # until the other has read all that was sent
            os._exit(1)
        jax.block_until_ready(search(query, shards, K))
        print("found alone", flush=True)


def main(port, me, mode, folder):
    jax.config.update("jax_num_cpu_devices", 2)
    mesh.join(f"127.0.0.1:{port}", 2, me)
    if mode == "trains":
        train(Path(folder), me)
    else:
        share(me, mode)
    print("ok", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
