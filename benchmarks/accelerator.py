"""All that is to be measured on a machine with a GPU, in 12 minutes: python benchmarks/accelerator.py

    python benchmarks/accelerator.py --out accelerator.json  # again: goes on where it ended
    python benchmarks/accelerator.py --scale 0.001 --out try.json  # whole on a CPU, in 3 minutes
    python benchmarks/accelerator.py --stages search,attacks --minutes 5 --out accelerator.json

Four stages, each with a budget of seconds: `checks` (the answers on the device against the CPU's, and
the times of first calls), `search` (beside the bare matmul, torch, FlashLib, Faiss, cuVS and certex,
where they are installed), `attacks` (beside Foolbox) and `training`. The pages of `stages/` say what
each measures. A stage runs in a process of its own, which is ended when its time is over, and the JSON
is written after every row: nothing that was measured is lost, and a row that takes the process with it
costs that row alone. What was left out is told, and measured first when the same --out is given again.

The largest bank, of 100 million x 128 bytes, is made on the device, slice by slice: it is 13 GB, and
26 GB more for a rival that wants float16. Written for one H200 of 139 GiB.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import tyro
from machine import hardware, versions
from rich.console import Console
from rich.table import Table
from stages import attacking, checking, searching, training
from stages.ledger import Ledger
from stages.stage import OVER, TRY, Stage, pending, work

from knn_jax.display import progress

STAGES = {stage.STAGE.name: stage.STAGE for stage in (checking, searching, attacking, training)}
OWN = "state", "at", "row_s"  # figures of the ledger's own
LEAST = 5.0  # seconds with which no process is started
REFUSED = 2  # the exit status where the file is of something else
ROOT = Path(__file__).parents[1]


def main(
    out: Path = ROOT / "results/benchmarks/accelerator.json",
    scale: float = 1.0,
    minutes: float = 12.0,
    stages: str = ",".join(STAGES),
    worker: float = 0.0,
):
    """Measures what the file lacks, shows all that it holds.

    Args:
        out: The JSON file, which is gone on with.
        scale: Of the banks, the queries, the images: 0.001 tries all on a CPU.
        minutes: In all; the stages have less each.
        stages: Names with commas.
        worker: Used by the program itself: the time at which it started, to measure one stage here.
    """
    names = stages.split(",")
    if unknown := set(names) - set(STAGES):
        sys.exit(f"error: no stage {', '.join(sorted(unknown))}: there are {', '.join(STAGES)}")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch and Faiss need room too
    try:
        ledger = Ledger(out, scale)
        if worker:
            jax.config.update("jax_enable_compilation_cache", False)  # first calls are what is timed
            jax.config.update("jax_disable_most_optimizations", scale < TRY)
            ledger.on(hardware(), versions())
            work(STAGES[names[0]], scale, ledger, worker, 60 * minutes)
            return
    except ValueError as error:
        progress.say(f"error: {error}")
        sys.exit(REFUSED)
    end = time.monotonic() + 60 * minutes
    for name in names:
        drive(STAGES[name], scale, out, min(STAGES[name].seconds, end - time.monotonic()))
    ledger = Ledger(out, scale)
    ledger.content |= {"published": list(searching.PUBLISHED), "only_a_try": scale < TRY}
    ledger.write()
    show(ledger, names)


def drive(stage: Stage, scale: float, out: Path, seconds: float) -> None:
    """Measures a stage in processes of its own, which end when its time is over.

    Raises SystemExit with the process's own status where it refuses the file.
    """
    since, end = time.time(), time.monotonic() + seconds
    progress.say(f"{stage.name}: {max(seconds, 0):.0f} s")
    lacks = pending(stage, scale, Ledger(out, scale), since)
    while lacks and (left := end - time.monotonic()) > LEAST:
        command = [sys.executable, __file__, "--out", f"{out}", "--scale", f"{scale}"]
        command += ["--minutes", f"{left / 60}", "--stages", stage.name, "--worker", f"{since}"]
        try:
            status = subprocess.run(command, timeout=left + LEAST).returncode
        except subprocess.TimeoutExpired:
            status = OVER
        if status == REFUSED:
            sys.exit(status)
        ledger = Ledger(out, scale)
        for row, figures in ledger.rows(stage.name).items():
            if figures["state"] == "running":
                over = "ran out of the stage's time" if status == OVER else f"exit status {status}"
                ledger.put(stage.name, row, "stopped" if status == OVER else "crashed", {"why": over})
        before, lacks = lacks, pending(stage, scale, ledger, since)
        if len(lacks) == len(before):
            break  # it does not even begin
    ledger = Ledger(out, scale)
    for row in pending(stage, scale, ledger, since):
        why = ledger.rows(stage.name).get(row.name, {}).get("why", "no time was left")
        ledger.put(stage.name, row.name, "left out", {"why": why})


def show(ledger: Ledger, names: list[str]) -> None:
    """A table for each stage, and what was left out."""
    console = Console(width=None if Console().is_terminal else 160)
    for name in names:
        columns = STAGES[name].columns
        only = " (a try of the code: no figures to go by)" if ledger.content["only_a_try"] else ""
        table = Table(title=f"{name}, scale {ledger.content['scale']}{only}")
        table.add_column("row")
        for head in ("state", *columns):
            table.add_column(head, justify="right")
        for row, figures in ledger.rows(name).items():
            cells = [_cell(figures.get(column)) for column in columns]
            if any(cells):
                table.add_row(row, str(figures["state"]), *cells)
        console.print(table)
        for row, figures in ledger.rows(name).items():
            if figures["state"] == "done" and not set(columns) & set(figures):
                told = (f"{key} {_cell(value)}" for key, value in figures.items() if key not in OWN)
                console.print(f"{row}: {', '.join(told)}", highlight=False, markup=False)
        for why, rows in reasons(ledger, name).items():
            console.print(f"{why}: {', '.join(rows)}", highlight=False, markup=False)
    progress.say(f"{ledger.file}")


def reasons(ledger: Ledger, stage: str) -> dict[str, list[str]]:
    """Why rows have no figures, each reason with those rows."""
    found: dict[str, list[str]] = {}
    for row, figures in ledger.rows(stage).items():
        if "why" in figures:
            found.setdefault(f"{figures['state']}: {figures['why']}", []).append(row)
    return found


def _cell(value: object) -> str:
    """A figure in four digits."""
    return "" if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    tyro.cli(main)
