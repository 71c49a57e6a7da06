"""Exact search timed beside its rivals, each checked first: python benchmarks/neighbors.py

On a CPU the rivals are Faiss (its BLAS path and its direct one), scikit-learn, torch, plain JAX and, as
the floor, the bare matmul. On a GPU they are Faiss GPU, torch on CUDA, plain JAX and the bare matmul,
and the shares of the FP32 rate and of the memory bandwidth, measured in the same run, are told too.

    pip install -e . && pip install faiss-cpu torch  # a missing package is skipped
    python benchmarks/neighbors.py  # about a quarter of an hour on 2 cores
    python benchmarks/neighbors.py --only 784 --rivals ours,faiss_blas,faiss_direct --seconds 3
    python benchmarks/neighbors.py --quick  # ten times smaller: only to see that all works

The figures aimed at are for 2 cores of an AMD EPYC with 23 GB of memory, every rival with its default
threads; the GPU shapes want one of 80 GB and were made for an H200. Compile time stands apart, copies
to the device are not timed, and what each rival works out about the bank in a call is. On the shape in
subspaces ours sums the distances of the halves, and the rivals, which cannot, find plain L2.
"""

import dataclasses
import datetime
import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from answers import error, made, reference
from machine import hardware, rates, versions
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from searches import ON_CPU, ON_GPU, RIVALS
from timing import Compiled, in_rounds

from knn_jax.display import progress
from knn_jax.workdir.files import whole

TOLERANCE = {"ours": 1e-5, "ours_bfloat16": 1e-5}  # of the distance
OTHERS = 1e-4


@dataclasses.dataclass(frozen=True)
class Shape:
    """One line of the table, with the figures aimed at."""

    rows: int
    dim: int
    queries: int
    k: int
    aim: float | None = None  # our time over that of the better Faiss path
    memory_aim: float | None = None  # MB beyond the bank
    subspaces: int = 1  # more: the sum of the distances in so many parts, which only ours can do
    dtype: str = "float32"  # of the bank; in bfloat16 it is made on the device and only ours runs

    @property
    def name(self) -> str:
        parts = f"_subspaces{self.subspaces}" if self.subspaces > 1 else ""
        parts += f"_{self.dtype}" if self.dtype != "float32" else ""
        return f"{self.rows}x{self.dim}{parts}_q{self.queries}_k{self.k}"


CPU = (
    Shape(60_000, 784, 1000, 75, 1.0),
    Shape(60_000, 128, 1000, 75, 1.0),
    Shape(54_000, 2048, 100, 75, 1.0),
    Shape(50_000, 30, 1000, 800, 1.5, subspaces=2),
    Shape(1_000_000, 128, 1000, 100, 1.0, memory_aim=1000.0),
    Shape(60_000, 128, 1, 75, 1.5),
    Shape(60_000, 128, 8, 75, 1.5),
)
GPU = (
    *(Shape(1_000_000, dim, 10_000, k) for dim in (128, 768) for k in (10, 100, 800)),
    Shape(100_000_000, 64, 1000, 100, dtype="bfloat16"),
)


def main(only: str = "", rivals: str = "", seconds: float = 6.0, out: str = "", quick: bool = False):
    """Times exact search beside its rivals; tables, ratios first, and a JSON file.

    Args:
        only: Part of the name of the shapes to run, or several with commas: 784 or q1_,q8_.
        rivals: Names with commas instead of all that fit the platform.
        seconds: For each rival and shape, about; at least 3 repeats, or 1 of over 20 s.
        out: The JSON file; by default results/benchmarks/neighbors_PLATFORM.json.
        quick: Shapes ten times smaller, to see that all works; the figures are not for these.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch and Faiss need room too
    on = jax.default_backend()
    names = tuple(rivals.split(",")) if rivals else ON_CPU if on == "cpu" else ON_GPU
    if unknown := set(names) - set(RIVALS):
        sys.exit(f"error: no rival {', '.join(sorted(unknown))}: there are {', '.join(RIVALS)}")
    shapes = CPU if on == "cpu" else GPU
    if quick:
        few = {shape: max(min(shape.queries, 8), shape.queries // 10) for shape in shapes}
        shapes = [dataclasses.replace(s, rows=s.rows // 10, queries=few[s]) for s in shapes]
    chosen = [shape for shape in shapes if any(part in shape.name for part in only.split(","))]
    if not chosen:
        sys.exit(f"error: no shape's name has {only}: there are {', '.join(s.name for s in shapes)}")
    default = Path(__file__).parents[1] / f"results/benchmarks/neighbors_{on}{'_quick' * quick}.json"
    file = Path(out) if out else default

    report = {
        "name": "neighbors",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "arguments": sys.argv[1:],
        "quick": quick,
        "hardware": hardware(),
        "versions": versions(),
        "measured": rates(*(2048, 2**24) if quick else (8192, 2**30)) if on != "cpu" else {},
        "shapes": [],
    }
    for number, shape in enumerate(chosen, 1):
        progress.say(f"{number}/{len(chosen)} {shape.name}")
        own = [n for n in names if shape.dtype == "float32" or n == "ours"]
        report["shapes"].append(line(shape, compare(shape, own, seconds), report["measured"]))
        with whole(file) as scratch:  # after every shape: a run cut short keeps what it measured
            scratch.write_text(json.dumps(report, indent=2) + "\n")
    console = Console(width=None if Console().is_terminal else 120)
    console.print(*tables(report, names))
    console.print(f"{file}", soft_wrap=True, highlight=False)


remade = functools.lru_cache(maxsize=1)(made)


def compare(shape: Shape, names: list[str], seconds: float) -> dict[str, dict[str, Any]]:
    """What was measured of each rival: its state (timed, wrong, failed or missing) and its times."""
    query, bank = remade(shape.rows, shape.dim, shape.queries, shape.dtype)
    sample = np.linspace(0, shape.queries - 1, 16 if shape.dtype == "float32" else 4).astype(int)
    sample = np.unique(sample)
    nearest = functools.cache(functools.partial(reference, query[sample], bank, shape.k))
    entries, runs = {}, {}
    for name in names:
        mine = {"subspaces": shape.subspaces} if name.startswith("ours") else {}
        try:
            run = RIVALS[name](query, bank, shape.k, **mine)
            found = jax.block_until_ready(run())
            entry: dict[str, Any] = {"state": "timed"}
            if name != "matmul":
                parts = mine.get("subspaces", 1)
                distance, index = (np.asarray(x.cpu() if hasattr(x, "cpu") else x) for x in found)
                chosen = distance[sample], index[sample], np.asarray(query[sample])
                entry["error"] = error(*chosen, bank, nearest(parts), parts)
                tolerance = TOLERANCE.get(name, OTHERS)
                if not entry["error"] <= tolerance:
                    entry["state"] = "wrong"
                    progress.say(f"{name} is wrong by {entry['error']:.2g}, more than {tolerance}")
        except Exception as problem:  # a rival that breaks must not end the others' run
            entry = {"state": "missing" if isinstance(problem, ImportError) else "failed"}
            what = (str(problem).splitlines() or [""])[0]
            progress.say(f"{name} {entry['state']}: {type(problem).__name__}: {escape(what)}")
        else:
            if isinstance(run, Compiled):
                entry["compile_seconds"] = round(run.seconds, 3)
                entry["memory_mb"] = run.bytes and run.bytes / 1e6
            if entry["state"] == "timed":
                runs[name] = run
        entries[name] = entry
    for name, times in in_rounds(runs, seconds).items():
        ms = 1e3 * np.asarray(times)
        spread = {"ms": np.median(ms), "ms_low": ms.min(), "ms_high": ms.max()}
        entries[name] |= {key: round(float(value), 4) for key, value in spread.items()}
        entries[name]["repeats"] = len(ms)
    return entries


def line(shape: Shape, entries: dict[str, Any], reached: dict[str, float]) -> dict[str, Any]:
    """What the JSON holds of a shape: ratios are our time over the rival's."""
    ms = {name: entry["ms"] for name, entry in entries.items() if "ms" in entry}
    for name in ms:
        if "ours" in ms:
            entries[name]["ratio"] = ms["ours"] / ms[name]
        if reached:
            work = 2e-12 * shape.rows * shape.dim * shape.queries
            moved = 1e-9 * shape.rows * shape.dim * jnp.dtype(shape.dtype).itemsize  # the bank, once
            entries[name]["share_of_fp32"] = work / (1e-3 * ms[name]) / reached["float32_tflops"]
            entries[name]["share_of_bandwidth"] = moved / (1e-3 * ms[name]) / reached["copy_gb_s"]
    ratios = [entries[n]["ratio"] for n in ms if n.startswith("faiss") and "ours" in ms]
    return {
        "name": shape.name,
        "shape": dataclasses.asdict(shape),
        "ratio": max(ratios, default=None),  # against the better Faiss path
        "aim": shape.aim,
        "rivals": entries,
    }


def tables(report: dict[str, Any], names: tuple[str, ...]) -> list[Table]:
    """A line for each shape: the ratios and what else is told of ours, then the times."""
    hardware = report["hardware"]
    where = f"{hardware['device']}, {hardware['cpu_cores']} cores of {hardware['cpu']}"
    rates = "".join(f", {key} {value:.3g}" for key, value in report["measured"].items())
    others = [name for name in names if name != "ours" and not name.startswith("faiss")]
    shares = ("fp32", "bandwidth") if report["measured"] else ()
    heads = [
        "shape",
        "best_Faiss",
        "aim",
        *others,
        *(f"of_{x}" for x in shares),
        "error",
        "MB over_bank",
    ]
    ratios = _table(f"our time over theirs: {where}{rates}{report['quick'] * ' (quick)'}", heads)
    times = _table("median ms", ["shape", *names, "ours:_compile s"])

    def number(value, form):
        return "" if value is None else format(value, form)

    for row in report["shapes"]:
        entries = row["rivals"]
        mine = entries.get("ours", {})
        cells = [number(row["ratio"], ".2f"), number(row["aim"], ".1f")]
        cells += [number(entries.get(name, {}).get("ratio"), ".2f") for name in others]
        cells += [number(mine.get(f"share_of_{x}"), ".0%") for x in shares]
        cells += [number(mine.get("error"), ".1e"), number(mine.get("memory_mb"), ".0f")]
        if aim := row["shape"]["memory_aim"]:
            cells[-1] += f" (aim {aim:.0f})"
        ratios.add_row(row["name"], *cells)
        told = (entries.get(name, {}) for name in names)
        cells = [number(entry.get("ms"), ".4g") or entry.get("state", "") for entry in told]
        times.add_row(row["name"], *cells, number(mine.get("compile_seconds"), ".1f"))
    return [ratios, times]


def _table(title, heads):
    shown = Table(title=title)
    for head in heads:
        justify = "left" if head == "shape" else "right"
        shown.add_column(head.replace("_", "\n"), justify=justify, no_wrap=True)
    return shown


if __name__ == "__main__":
    tyro.cli(main)
