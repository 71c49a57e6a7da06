"""What the first call of each program costs, beside plain JAX, Faiss and scikit-learn.

    python benchmarks/first_call.py  # a few minutes on 2 cores
    python benchmarks/first_call.py --only search --repeats 1

Each call is made in a new process without a compilation cache, after JAX itself has started, and its
CPU seconds are the median of `--repeats`. Lines are those of its StableHLO, which say on any machine
how much there is to compile. `--out FILE.json` keeps all figures.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import lax
from machine import hardware, versions
from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Call:
    """One row of the table: a call, and what it is compared to."""

    make: Callable[[], Callable[[], object]]
    """Prepares the input, untimed, and returns what is timed."""
    aim: float | None = None
    """CPU seconds aimed at on 2 cores."""
    lines: bool = True
    """Whether it is one JAX program, whose lines can be counted."""


def rows(count: int = 300, dim: int = 64, queries: int = 50) -> tuple[jax.Array, jax.Array]:
    """Queries and rows, uniform."""
    draw = np.random.default_rng(0)
    query, bank = (draw.random((n, dim), np.float32) for n in (queries, count))
    return jnp.asarray(query), jnp.asarray(bank)


def classes(count: int) -> jax.Array:
    """Labels 0 to 9 in turn."""
    return jnp.arange(count, dtype=jnp.int32) % 10


def search(count: int = 300, dim: int = 64, queries: int = 50, k: int = 5, form: str = "all"):
    """`neighbors.search`, plain, for every class, or without the query's."""
    from knn_jax import neighbors

    query, bank = rows(count, dim, queries)
    among = {}
    if form == "classes":
        every = jnp.broadcast_to(jnp.arange(10), (queries, 10))
        among = {"labels": classes(count), "only": every}
    if form == "without":
        among = {"labels": classes(count), "without": classes(queries)}
    return lambda: neighbors.search(query, bank, k, **among)


def plain(count: int = 300, dim: int = 64, queries: int = 50, k: int = 5):
    """A matmul and `top_k`."""
    query, bank = rows(count, dim, queries)

    @jax.jit
    def nearest(query, bank):
        squares = jnp.sum(bank * bank, -1)[None] - 2 * query @ bank.T
        return lax.top_k(-squares, k)

    return lambda: nearest(query, bank)


def faiss(count: int = 300, dim: int = 64, queries: int = 50, k: int = 5):
    """An exact index of Faiss."""
    import faiss

    query, bank = (np.asarray(array) for array in rows(count, dim, queries))

    def nearest():
        index = faiss.IndexFlatL2(dim)
        index.add(bank)
        return index.search(query, k)

    return nearest


def sklearn(count: int = 300, dim: int = 64, queries: int = 50, k: int = 5):
    """scikit-learn's brute force."""
    from sklearn.neighbors import NearestNeighbors

    query, bank = (np.asarray(array) for array in rows(count, dim, queries))
    return lambda: NearestNeighbors(n_neighbors=k, algorithm="brute").fit(bank).kneighbors(query)


def parts(network: bool = False, layers: int = 1):
    """Features, none or layers of a small network, and 300 images of 8 x 8."""
    from knn_jax import nets

    images = rows()[1].reshape(300, 8, 8, 1)
    if not network:
        return None, images
    net = nets.ConvNet(((8, 3, 1, 1), (16, 4, 2, 1))).build(10)
    variables = net.init(jax.random.key(0), images[:1])
    return nets.features(net, variables, ("relu1", "relu2")[-layers:], images[:1].shape), images


def predict(network: bool = False):
    """`classifiers.knn(...)` and `predict`."""
    from knn_jax import classifiers

    features, images = parts(network)
    return lambda: classifiers.knn(features, images, classes(300), k=5).predict(images[:10])


def attack(
    name: str, network: bool = False, layers: int = 1, batches: tuple[int, ...] = (10,), **knobs
):
    """An attack of `knn_jax.attacks`, on batches of such sizes one after another."""
    from knn_jax import attacks, classifiers

    features, images = parts(network, layers)
    model = classifiers.knn(features, images, classes(300), k=5)
    x, y, key = images[:10], classes(10), jax.random.key(0)
    run = getattr(attacks, name)
    return lambda: [run(key, model, x[:n], y[:n], **knobs) for n in batches]


BALL = {"eps": 0.1, "steps": 5}
LARGE = {"count": 60_000, "dim": 128, "queries": 1000, "k": 75}
CALLS = {
    "search": Call(search, 0.7),
    "search, every class": Call(lambda: search(form="classes"), 0.7),
    "search, all but a class": Call(lambda: search(form="without"), 0.7),
    "search 60k": Call(lambda: search(**LARGE), 2.5),
    "search 60k, every class": Call(lambda: search(**LARGE, form="classes"), 2.5),
    "search 60k, all but a class": Call(lambda: search(**LARGE, form="without"), 2.5),
    "knn, predict": Call(predict, 1.2, lines=False),
    "knn on a network, predict": Call(lambda: predict(True), 1.2, lines=False),
    "pgd": Call(lambda: attack("pgd", **BALL), 4.0),
    "pgd, batches of 10 and 9": Call(lambda: attack("pgd", batches=(10, 9), **BALL), 4.0),
    "pgd on a network": Call(lambda: attack("pgd", network=True, **BALL)),
    "minimum_norm": Call(lambda: attack("minimum_norm"), 9.0),
    "minimum_norm in linf": Call(lambda: attack("minimum_norm", norm="linf"), 9.0),
    "minimum_norm on two layers": Call(lambda: attack("minimum_norm", network=True, layers=2)),
    "ask": Call(lambda: attack("ask", **BALL), 9.0),
    "plain JAX": Call(plain),
    "plain JAX 60k": Call(lambda: plain(**LARGE)),
    "Faiss": Call(faiss, lines=False),
    "Faiss 60k": Call(lambda: faiss(**LARGE), lines=False),
    "scikit-learn": Call(sklearn, lines=False),
    "scikit-learn 60k": Call(lambda: sklearn(**LARGE), lines=False),
}


def one(name: str) -> None:
    """Makes a call in this process; prints its figures as JSON."""
    jax.block_until_ready(jnp.zeros(3) + 1)
    work = CALLS[name].make()

    def timed(work):
        start = time.process_time()
        jax.block_until_ready(work())
        return time.process_time() - start

    figures = {"first": timed(work), "again": timed(work)}
    if CALLS[name].lines:
        figures["lines"] = len(jax.jit(work).lower().as_text().splitlines())
    print(json.dumps(figures))


def measured(name: str, repeats: int) -> dict[str, float] | str:
    """The medians of a call's figures over new processes; what is missing, where it cannot be made."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION_CACHE")}
    runs = []
    for _ in range(repeats):
        command = [sys.executable, __file__, "--one", name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return next(line for line in done.stderr.splitlines()[::-1] if "Error" in line)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {what: statistics.median(run[what] for run in runs) for what in runs[0]}


def main(only: str = "", repeats: int = 3, out: Path | None = None, one: str = "") -> None:
    """Prints the table; `only` keeps the calls whose name starts so."""
    if one:
        return globals()["one"](one)
    table = Table("call", "first, CPU s", "aim", "again, CPU s", "lines of StableHLO")
    found = {}
    for name, call in CALLS.items():
        if not name.startswith(only):
            continue
        found[name] = figures = measured(name, repeats)
        if isinstance(figures, str):
            table.add_row(name, figures)
            continue
        first, again = (f"{figures[what]:.2f}" for what in ("first", "again"))
        aim = "" if call.aim is None else f"{call.aim:.1f}"
        table.add_row(name, first, aim, again, str(int(figures.get("lines", 0)) or ""))
    Console().print(table)
    if out is not None:
        report = {"hardware": hardware(), "versions": versions(), "calls": found}
        out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    tyro.cli(main)
