"""A network with its neighbours beside the same network alone, image by image, as a table in Markdown.

python -m knn_jax.report.pairs results/README.md results/*.json

Two reports are a pair if they are of the same given weights and the same test images in the same order,
and the network alone decides in one of them. Norms are those of the table of single images that is
published beside a report: lines of its results.csv, in a file named as the report.
"""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from knn_jax.display import command
from knn_jax.report import pipes
from knn_jax.report.report import Report
from knn_jax.workdir.files import whole

ALONE = "output"  # the layer that `fit.Network` looks at
HEAD = (
    *("weights", "attack", "clean: alone", "with kNN", "paper's mean: alone", "with kNN"),
    *("n", "mean: alone", "with kNN", "difference", "larger with kNN"),
)
Images = list[dict[str, str]]


class Published(NamedTuple):
    """A report, and of each of its images the columns by name."""

    report: Report
    images: Images


class Difference(NamedTuple):
    """Of the norms of n pairs."""

    n: int
    means: tuple[float, float]
    mean: float
    """Of the second less the first."""
    interval: tuple[float, float]
    """In which that lies to 95%, by Student's t."""
    larger: float
    """The share of pairs in which the second is larger."""


def table(files: Sequence[Path]) -> str:
    """A row for each pair of reports and each attack, in one norm, that both have."""
    pairs = paired([_read(file) for file in files if file.with_suffix(".csv").is_file()])
    return pipes.table(HEAD, [row for pair in pairs for row in _rows(*pair)])


def paired(every: Sequence[Published]) -> list[tuple[Published, Published]]:
    """Each network alone, and with neighbours."""

    def of(report: Report) -> tuple[str, str]:
        return report["weights"], report.get("test_digest", "")

    every = [one for one in every if one.report.get("test_digest") and one.report["weights"]]
    alone = [one for one in every if one.report["layer"] == ALONE]
    others = [one for one in every if one.report["layer"] != ALONE]
    return [(one, two) for one in alone for two in others if of(one.report) == of(two.report)]


def difference(one: Images, two: Images, column: str) -> Difference:
    """Of the norms in a column, on the images that both classify correctly and on which both attacks
    found something. Raises ValueError where these are fewer than two."""

    def norms(images: Images) -> dict[str, float]:
        right = (row for row in images if row[column] and row["clean"] == row["label"])
        found = {row["index"]: float(row[column]) for row in right}
        return {index: norm for index, norm in found.items() if 0 < norm < np.inf}

    first, second = norms(one), norms(two)
    common = [index for index in first if index in second]
    if len(common) < 2:
        raise ValueError(f"{len(common)} images in common have {column} in both: attack the same ones")
    a, b = (np.array([found[index] for index in common]) for found in (first, second))
    n, apart = len(common), b - a
    mean, half = float(apart.mean()), float(stats.t.ppf(0.975, n - 1) * apart.std(ddof=1) / n**0.5)
    means, interval = (float(a.mean()), float(b.mean())), (mean - half, mean + half)
    return Difference(n, means, mean, interval, float(np.mean(b > a)))


def _rows(one: Published, two: Published) -> Iterator[tuple[str, ...]]:
    reports = one.report, two.report
    clean = [f"{report['clean_acc']:.4f}" for report in reports]
    for name, norm in [(entry["name"], entry["norm"]) for entry in one.report["attacks"]]:
        column = f"{name}_{norm}_norm"
        if not (column in one.images[0] and column in two.images[0]):
            continue  # the other was not attacked so, or it is the least of several attacks
        both = " and ".join(report["name"] for report in reports)
        if len({json.dumps(_knobs(report, name)) for report in reports}) > 1:
            raise ValueError(f"{both}: {name} has other knobs in each: attack both alike")
        try:
            found = difference(one.images, two.images, column)
        except ValueError as error:
            raise ValueError(f"{both}: {error}") from error
        told = [report["reported"].get(f"mean_{norm}") for report in reports]
        paper = ["" if mean is None else f"{mean:.3f}" for mean in told]
        means = [f"{mean:.3f}" for mean in found.means]
        between = "{:+.3f} [{:+.3f}, {:+.3f}]".format(found.mean, *found.interval)
        attack = name if norm == "l2" else f"{name}, {norm}"
        ours = str(found.n), *means, between, f"{found.larger:.0%}"
        yield reports[0]["weights"], attack, *clean, *paper, *ours


def _knobs(report: Report, name: str) -> object:
    """Those of an attack, as the report has them."""
    attacks = report["config"].get("attacks", {})
    return attacks.get(name) if isinstance(attacks, dict) else None


def _read(file: Path) -> Published:
    """A report and the images beside it; ValueError for what is none."""
    beside = file.with_suffix(".csv")
    try:
        with open(beside, newline="") as stream:
            images = list(csv.DictReader(stream))
        if not images or not {"index", "label", "clean"} <= set(images[0]):
            raise ValueError("it has no images by index, label and clean")
        report = json.loads(file.read_text())
        needed = {"name", "weights", "layer", "clean_acc", "attacks", "reported", "config"}
        if missing := needed - set(report):
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
        return Published(report, images)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} or {beside} cannot be read: {error}") from error


def main() -> None:
    """Fills the Markdown files named on the command line from the reports, between `<!-- pairs -->` and
    `<!-- end -->`."""
    files = [Path(name) for name in sys.argv[1:]]
    texts, reports = ([file for file in files if file.suffix == kind] for kind in (".md", ".json"))
    if not (texts and reports):
        raise ValueError("usage: python -m knn_jax.report.pairs FILE.md results/*.json")
    made = table(reports)
    filled = {file: pipes.put(file.read_text(), "pairs", made) for file in texts}
    for file, text in filled.items():
        with whole(file) as scratch:
            scratch.write_text(text)


if __name__ == "__main__":
    command.run(main)
