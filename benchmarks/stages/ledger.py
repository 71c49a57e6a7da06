"""What has been measured, in a JSON file that is whole after every row and is gone on with."""

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from knn_jax.workdir.files import whole

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
Figures: TypeAlias = dict[str, Json]
SETTLED = "done", "wrong"  # of a row that is not measured again


class Ledger:
    """The rows of each stage by name, each with its state and figures.

    A row is `done`, `wrong` (its answer was not the right one), `missing` (what it needs is not
    installed), `failed`, `stopped` (it ran out of its time), `crashed` (with the process), `running` or
    `left out`. Raises ValueError for a file that is none of these, of another scale or machine.
    """

    def __init__(self, file: Path, scale: float):
        self.file, self._lock = file, threading.Lock()
        self.content: Figures = {"name": "accelerator", "scale": scale}
        self.stages: dict[str, dict[str, Figures]] = {}
        if file.exists():
            try:
                known = json.loads(file.read_text())
            except ValueError as error:
                raise ValueError(f"{file} is no JSON: {error}") from error
            if any(known.get(name) != value for name, value in self.content.items()):
                raise ValueError(f"{file} is of another benchmark or scale: give another --out")
            self.stages = known.pop("stages")
            self.content = known

    def on(self, hardware: Mapping[str, Json], versions: Mapping[str, str]) -> None:
        """Notes the machine; ValueError where the file is of another."""
        known = self.content.setdefault("hardware", dict(hardware))
        device = known["device"] if isinstance(known, dict) else None
        if device != hardware["device"]:
            raise ValueError(f"{self.file} is of {device}: give another --out")
        self.content["versions"] = dict(versions)

    def rows(self, stage: str) -> dict[str, Figures]:
        """The rows of a stage, in the order in which they were begun."""
        return self.stages.setdefault(stage, {})

    def settled(self, stage: str, row: str) -> bool:
        """Whether it need not be measured again."""
        return self.rows(stage).get(row, {}).get("state") in SETTLED

    def put(self, stage: str, row: str, state: str, figures: Mapping[str, Json] | None = None) -> None:
        """Notes a row's state and figures, in the file too."""
        with self._lock:
            self.rows(stage)[row] = {"state": state, "at": time.time(), **(figures or {})}
            self._write()

    def write(self) -> None:
        """The file as the content is."""
        with self._lock:
            self._write()

    def _write(self):
        with whole(self.file) as scratch:
            scratch.write_text(json.dumps(self.content | {"stages": self.stages}, indent=1) + "\n")
