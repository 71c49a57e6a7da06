"""A stage is a list of rows and a budget of seconds; a process measures what the ledger lacks."""

import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from knn_jax.display import progress
from stages.ledger import Figures, Ledger

TRY = 0.1  # a scale below only tries the code
OVER = 75  # the exit status of a process whose row ran out of its time


@dataclass(frozen=True)
class Row:
    """One thing to measure: its name, and what gives its figures.

    The figures may hold a `state`, which is `done` unless told. A row of more than `limit` seconds is
    stopped, with its process.
    """

    name: str
    measure: Callable[[], Figures]
    limit: float = 90.0


@dataclass(frozen=True)
class Stage:
    """Rows that share a budget of seconds, and the figures of theirs that a table shows."""

    name: str
    seconds: float
    rows: Callable[[float], Sequence[Row]]
    """The rows at a scale, the most wanted first."""
    columns: tuple[str, ...]
    derive: Callable[[dict[str, Figures]], None] = lambda rows: None
    """Adds to all rows what follows from others."""


def pending(stage: Stage, scale: float, ledger: Ledger, since: float) -> list[Row]:
    """The rows to measure: none that is settled or was tried `since` then, those never tried first."""
    before = ledger.rows(stage.name)
    left = [row for row in stage.rows(scale) if not ledger.settled(stage.name, row.name)]
    left = [row for row in left if _tried(before.get(row.name, {})) < since]
    return sorted(left, key=lambda row: _tried(before.get(row.name, {})) > 0)


def work(stage: Stage, scale: float, ledger: Ledger, since: float, seconds: float) -> None:
    """Measures what is pending, for so many seconds at most.

    A row that runs longer than it may ends the process, for nothing else stops a program on a device.
    """
    end = time.monotonic() + seconds
    for row in pending(stage, scale, ledger, since):
        left = end - time.monotonic()
        if left <= 0:
            return
        limit = min(row.limit, left)
        ledger.put(stage.name, row.name, "running")
        clock = threading.Timer(limit, _stop, (ledger, stage.name, row.name, limit))
        clock.daemon = True
        clock.start()
        try:
            figures = _measured(row)
        finally:  # also where it was interrupted: the clock ends the process
            clock.cancel()
        ledger.put(stage.name, row.name, str(figures.pop("state", "done")), figures)
        stage.derive(ledger.rows(stage.name))
        ledger.write()
        _free()


def _measured(row):
    """Its figures and its state; a row that breaks does not end the others."""
    progress.say(row.name)
    start = time.monotonic()
    try:
        figures = row.measure()
    except Exception as problem:
        told = (str(problem).splitlines() or [""])[0][:300]
        figures = {
            "state": "missing" if isinstance(problem, ImportError) else "failed",
            "why": f"{type(problem).__name__}: {told}",
        }
        progress.say(f"  {figures['state']}: {figures['why']}")
    return figures | {"row_s": round(time.monotonic() - start, 2)}


def _stop(ledger, stage, row, limit):
    ledger.put(stage, row, "stopped", {"why": f"ran for {limit:.0f} s", "row_s": limit})
    progress.say(f"  {row}: stopped after {limit:.0f} s")
    os._exit(OVER)


def _tried(figures: Figures) -> float:
    """When it was begun last; 0 for a row that never was."""
    at = figures.get("at", 0.0)
    return float(at) if isinstance(at, int | float) and figures.get("state") != "left out" else 0.0


def _free():
    """Gives back what torch keeps of the device's memory."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
