"""Pictures of several finished runs side by side: adversarial images, and norms against sensitivity.

python -m knn_jax.compare OUT_DIR WORKDIR WORKDIR ...
"""

import csv
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from knn_jax import cli, config, data, figures, progress
from knn_jax.workdir import whole

SHOWN = 6  # images in the grid


class Run(NamedTuple):
    """A finished attack: its report, and of each attacked image the smallest perturbation found.

    norm   inf: none found, 0: wrong without one
    right  whether it is classified correctly without one
    norms  of each attack by itself, on those of the images that it was run on
    """

    report: dict[str, Any]
    image: np.ndarray
    norm: np.ndarray
    right: np.ndarray
    norms: dict[str, np.ndarray]

    def mean(self) -> float | None:
        """Of the norms found, without those of images that are wrong anyhow; None where none is."""
        found = self.norm[np.isfinite(self.norm) & (self.norm > 0)]
        return float(found.mean()) if len(found) else None


def compare(out: str, workdirs: list[str]) -> list[Path]:
    """Writes comparison.png, accuracy.png and, if a run has its features measured, sensitivity.png.

    Raises ValueError for a workdir that is not finished, runs on different data, runs that share no
    norm, and images that not all classify correctly.
    """
    reports = {workdir: _report(Path(workdir).expanduser()) for workdir in workdirs}
    first = next(iter(reports))
    norms = [{a["norm"] for a in report["attacks"]} for report in reports.values()]
    shared = [a["norm"] for a in reports[first]["attacks"] if all(a["norm"] in n for n in norms)]
    if not shared:
        raise ValueError(
            "the runs have no norm in common: run attack.py with --attack.norms l2 on each"
        )
    for workdir, report in reports.items():
        if _data(report) != _data(reports[first]):
            raise ValueError(
                f"{workdir} is on {' '.join(_data(report))} and {first} on "
                f"{' '.join(_data(reports[first]))}: compare runs on the same images"
            )
    runs = [_run(Path(workdir).expanduser(), report, shared[0]) for workdir, report in reports.items()]
    count = min(len(run.norm) for run in runs)  # means over other images would not compare
    runs = [
        run._replace(image=run.image[:count], norm=run.norm[:count], right=run.right[:count])
        for run in runs
    ]
    common = np.flatnonzero(np.all([run.right for run in runs], 0))[:SHOWN]
    if not len(common):
        raise ValueError(
            f"none of the first {count} images is classified correctly by all: attack more"
        )
    knobs = config.Data(**reports[first]["config"]["data"])
    clean = data.load(knobs).test.floats(0, count)
    pictures = {
        "comparison.png": figures.grid(clean, common, runs, shared[0]),
        "accuracy.png": figures.accuracy(runs, shared[0]),
    }
    if any("analysis" in report for report in reports.values()):
        pictures["sensitivity.png"] = figures.sensitivity(runs, shared[0])
    else:
        progress.say("no sensitivity.png: give attack.py --analyze.images 1000")
    for name, picture in pictures.items():
        with whole(Path(out).expanduser() / name) as scratch:
            scratch.write_bytes(picture)
    return [Path(out).expanduser() / name for name in pictures]


def _report(folder: Path) -> dict[str, Any]:
    for file in ("report.json", "results.csv", "adversarial.npz"):
        if not (folder / file).is_file():
            raise ValueError(f"{folder} has no {file}: run attack.py with --workdir {folder} first")
    try:
        return json.loads((folder / "report.json").read_text())
    except ValueError as error:
        raise ValueError(f"{folder / 'report.json'} is damaged: run attack.py again") from error


def _data(report: dict[str, Any]) -> tuple[str, ...]:
    knobs = report["config"]["data"]
    return Path(knobs["name"]).name, f"size {knobs['size']}"


def _run(folder: Path, report: dict[str, Any], norm: str) -> Run:
    """The smallest perturbations of a workdir, whichever attack found them."""
    with open(folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with np.load(folder / "adversarial.npz") as file:
        images = {name: file[name] for name in file.files if name.endswith(f"_{norm}")}
    count = max(map(len, images.values()))
    lengths = np.full((len(images), count), np.inf)
    image = np.zeros((len(images), count, *next(iter(images.values())).shape[1:]), np.float32)
    for i, (name, found) in enumerate(images.items()):
        lengths[i, : len(found)] = [float(row[f"{name}_norm"]) for row in rows[: len(found)]]
        image[i, : len(found)] = found
    least = lengths.argmin(0), np.arange(count)
    right = np.array([row["clean"] == row["label"] for row in rows[:count]])
    norms = {
        name.removesuffix(f"_{norm}"): found[: len(images[name])]
        for name, found in zip(images, lengths, strict=True)
    }
    return Run(report, image[least], lengths[least], right, norms)


def main() -> None:
    """The command line."""
    if len(sys.argv) < 3:
        raise ValueError("usage: python -m knn_jax.compare OUT_DIR WORKDIR [WORKDIR ...]")
    for file in compare(sys.argv[1], sys.argv[2:]):
        print(file)


if __name__ == "__main__":
    cli.run(main)
