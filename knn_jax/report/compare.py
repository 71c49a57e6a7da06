"""Pictures of several finished runs side by side: adversarial images, and norms against sensitivity.

python -m knn_jax.report.compare OUT_DIR WORKDIR WORKDIR ...
"""

import csv
import io
import json
import sys
from collections.abc import Iterator

import numpy as np

from knn_jax import balls, data, values
from knn_jax.display import command, progress
from knn_jax.recipe import Evaluate
from knn_jax.report import figures
from knn_jax.report.figures.comparison import Run
from knn_jax.report.report import Report
from knn_jax.workdir import Place, files
from knn_jax.workdir.bucket import Unreachable

SHOWN = 6  # images in the grid


def compare(out: str, workdirs: list[str]) -> list[Place]:
    """Writes comparison.png, accuracy.png, confusion.png and, if a run has its features measured,
    sensitivity.png.

    Raises ValueError for a workdir that is not finished, runs on different data, runs that share no
    norm, and images that not all classify correctly.
    """
    folders = {workdir: files.place("workdir", workdir) for workdir in workdirs}
    into = files.place("the folder of the pictures", out)
    reports = {workdir: _report(folder) for workdir, folder in folders.items()}
    first = next(iter(reports))
    norms = [{a["norm"] for a in report["attacks"]} for report in reports.values()]
    shared: list[balls.Norm] = [
        a["norm"] for a in reports[first]["attacks"] if all(a["norm"] in n for n in norms)
    ]
    if not shared:
        raise ValueError(
            "the runs have no norm in common: run attack.py with --evaluate.norms l2 on each"
        )
    for workdir, report in reports.items():
        if _data(report) != _data(reports[first]):
            raise ValueError(
                f"{workdir} is on {' '.join(_data(report))} and {first} on "
                f"{' '.join(_data(reports[first]))}: compare runs on the same images"
            )
    runs = [_finished(folders[workdir], report, shared[0]) for workdir, report in reports.items()]
    count = min(len(run.norm) for run in runs)  # means over other images would not compare
    names = ("image", "norm", "right", "label", "given")
    runs = [run._replace(**{name: getattr(run, name)[:count] for name in names}) for run in runs]
    common = np.flatnonzero(np.all([run.right for run in runs], 0))[:SHOWN]
    if not len(common):
        raise ValueError(
            f"none of the first {count} images is classified correctly by all: attack more"
        )
    made = _source(reports[first])
    test = made.load().test
    test = test.rows(Evaluate(image_seed=_image_seed(reports[first])).order(len(test.labels)))
    for workdir, report in reports.items():
        if report.get("test_digest", test.digest()) != test.digest():
            raise ValueError(
                f"the test images or labels of {made.name} have changed since {workdir} was made: run "
                "attack.py again"
            )
    clean = test.floats(0, count)
    pictures = {
        "comparison.png": figures.grid(clean, common, runs, shared[0]),
        "accuracy.png": figures.accuracy(runs, shared[0]),
        "confusion.png": figures.confusion(list(_confusions(runs, shared[0]))),
    }
    if any("analysis" in report for report in reports.values()):
        pictures["sensitivity.png"] = figures.sensitivity(runs, shared[0])
    else:
        progress.say("no sensitivity.png: no run measured its features (measures.LocalDimension)")
    for name, picture in pictures.items():
        with files.whole(into / name) as scratch:
            scratch.write_bytes(picture)
    return [into / name for name in pictures]


def _report(folder: Place) -> Report:
    for file in ("report.json", "results.csv", "adversarial.npz"):
        if not files.is_file(folder / file):
            raise ValueError(f"{folder} has no {file}: run attack.py with --workdir {folder} first")
    file = folder / "report.json"
    try:
        report = json.loads(files.text(file))
        _source(report)
        _ = report["name"], report["decider"]
        if not all({"name", "norm", "robust_acc"} <= set(entry) for entry in report["attacks"]):
            raise ValueError("an attack of which something is missing")
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    except Unreachable:
        raise
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{file} is damaged or of another version: run attack.py again") from error
    return report


def _data(report: Report) -> tuple[str, ...]:
    size, seed = _knobs(report).get("size", 0), _image_seed(report)
    drawn = "in its own order" if seed is None else f"in the order of image_seed {seed}"
    return report["dataset"], f"size {size}", drawn


def _image_seed(report: Report) -> int | None:
    """By which the test images were drawn; older reports have none."""
    evaluate = report["config"].get("evaluate", {})
    return evaluate.get("image_seed") if isinstance(evaluate, dict) else None


def _source(report: Report) -> data.Data:
    """The data set of a report."""
    knobs = _knobs(report)
    kinds = {kind.__name__: kind for kind in (data.Digits, data.TFDS, data.NPZ, data.Folder)}
    return kinds[knobs.pop(values.CLASS)](**knobs)


def _knobs(report: Report) -> dict:
    """A copy of what `values.told` tells of the data set."""
    knobs = report["config"]["data"]
    if not isinstance(knobs, dict):
        raise ValueError(f"{knobs!r} is no data set")
    return dict(knobs)


def _finished(folder: Place, report: Report, norm: balls.Norm) -> Run:
    """The smallest perturbations of a workdir; ValueError where its files are not of one run."""
    try:
        return _run(folder, report, norm)
    except OSError as error:
        raise ValueError(f"{folder / 'results.csv'} cannot be read: {error.strerror}") from error
    except Unreachable:
        raise
    except (ValueError, TypeError, LookupError, csv.Error) as error:
        raise ValueError(
            f"results.csv and adversarial.npz in {folder} are damaged or of two runs ({error}): run "
            "attack.py again"
        ) from error


def _run(folder: Place, report: Report, norm: balls.Norm) -> Run:
    """The smallest perturbations of a workdir, whichever attack found them."""
    rows = list(csv.DictReader(io.StringIO(files.text(folder / "results.csv"), newline="")))
    if len(rows) != report["n"]:
        raise ValueError(f"{len(rows)} images of {report['n']}")
    every = files.arrays(folder / "adversarial.npz")
    images = {name: array for name, array in every.items() if name.endswith(f"_{norm}")}
    count = max(map(len, images.values()))
    lengths = np.full((len(images), count), np.inf, np.float32)  # as they were compared with radii
    image = np.zeros((len(images), count, *next(iter(images.values())).shape[1:]), np.float32)
    given = np.zeros((len(images), count), int)
    for i, (name, found) in enumerate(images.items()):
        lengths[i, : len(found)] = [float(row[f"{name}_norm"]) for row in rows[: len(found)]]
        image[i, : len(found)] = found
        given[i, : len(found)] = [int(row[f"{name}_adversarial"]) for row in rows[: len(found)]]
    least = lengths.argmin(0), np.arange(count)
    label, clean = (np.array([int(row[name]) for row in rows[:count]]) for name in ("label", "clean"))
    changed = np.isfinite(lengths[least]) & (lengths[least] > 0)
    given = np.where(changed, given[least], clean)
    norms = {
        name.removesuffix(f"_{norm}"): found[: len(images[name])]
        for name, found in zip(images, lengths, strict=True)
    }
    return Run(report, image[least], lengths[least], clean == label, label, given, norms)


def _confusions(runs: list[Run], norm: balls.Norm) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Of each run the classes given within the least radius that it reports, and how much it has in
    common with the first (Serban et al. 2021, section 5)."""
    first = None
    for run in runs:
        within = next(a["robust_acc"] for a in run.report["attacks"] if a["norm"] == norm)
        radius = min(map(float, within), default=0.0)
        given = np.where(run.right & (run.norm > radius), run.label, run.given)
        title = f"{run.report['name']}, within {radius:g} in {norm}"
        wrong, common = given != run.label, commonest(run.label, given)
        if first is None:
            first = wrong, common
        else:
            shared = (wrong & first[0]).sum() / max(1, (wrong | first[0]).sum())
            title += f"\n{shared:.0%} of errors shared with the first; the most frequent"
            title += f"\nthe same in {(common == first[1]).sum()} of {len(common)} classes"
        yield title, run.label, given


def commonest(label: np.ndarray, given: np.ndarray) -> np.ndarray:
    """The class most often given in error to images of each class, its own where there is none."""
    counts = figures.errors(label, given)
    return np.where(counts.any(1), counts.argmax(1), np.arange(len(counts)))


def main() -> None:
    """The command line."""
    if len(sys.argv) < 3:
        raise ValueError("usage: python -m knn_jax.report.compare OUT_DIR WORKDIR [WORKDIR ...]")
    for file in compare(sys.argv[1], sys.argv[2:]):
        print(file)


if __name__ == "__main__":
    command.run(main)
