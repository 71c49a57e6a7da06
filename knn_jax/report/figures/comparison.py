"""Several runs side by side: their images, accuracies, and norms against sensitivity."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import ticker

from knn_jax import balls
from knn_jax.display.canvas import axes, grey, png, show, steps
from knn_jax.report.report import Report


class Run(NamedTuple):
    """A finished attack: its report, and of each attacked image the smallest perturbation found.

    norm   inf: none found, 0: wrong without one
    right  whether it is classified correctly without one
    label  its class
    given  the class that it is given, with this perturbation
    norms  of each attack by itself, on those of the images that it was run on
    """

    report: Report
    image: np.ndarray
    norm: np.ndarray
    right: np.ndarray
    label: np.ndarray
    given: np.ndarray
    norms: dict[str, np.ndarray]

    def mean(self) -> float | None:
        """Of the norms found, without those of images that are wrong anyhow; None where none is."""
        found = self.norm[self.right & np.isfinite(self.norm) & (self.norm > 0)]
        return float(found.mean()) if len(found) else None


def grid(clean: np.ndarray, shown: np.ndarray, runs: Sequence[Run], norm: balls.Norm) -> bytes:
    """Below the clean images, a row for each run: its adversarial images, their perturbations
    scaled to the range of grey, and their norms (Sitawarin & Wagner 2019, figure 3)."""
    size = (1.1 * 2 * len(shown) + 1.6, 1.25 * (len(runs) + 1) + 0.3)
    figure, places = axes(len(runs) + 1, 2 * len(shown), size)
    for axis in places.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for axis, i in zip(places[0, ::2], shown, strict=True):
        show(axis, clean[i])
    names = ["clean", *(_label(run.report) for run in runs)]
    for axis, name in zip(places[:, 0], names, strict=True):
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    for row, run in zip(places[1:], runs, strict=True):
        for place, i in enumerate(shown):
            show(row[2 * place], run.image[i])
            show(row[2 * place + 1], grey(run.image[i] - clean[i]))
            told = f"{run.norm[i]:.3f}" if np.isfinite(run.norm[i]) else "none found"
            row[2 * place + 1].set_title(told, fontsize=8, pad=2)
    figure.suptitle(f"adversarial images and perturbations, with their {norm} norms", fontsize=10)
    return png(figure)


def accuracy(runs: Sequence[Run], norm: balls.Norm) -> bytes:
    """Accuracy against the norm, an axis for each attack and a line for each run that has it, as far as
    accuracy is reported; where it follows another source, that a run has not, a line of the same attack
    without one."""
    entries = [a for run in runs for a in run.report["attacks"] if a["norm"] == norm]
    reach = max((float(radius) for a in entries for radius in a["robust_acc"]), default=None)
    names = list(dict.fromkeys(name for run in runs for name in run.norms))
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, places = axes(rows, columns, (4.6 * columns, 3.4 * rows), sharey=True)
    for axis in places.flat[len(names) :]:
        axis.set_axis_off()
    for axis, name in zip(places.flat, names, strict=False):
        for i, run in enumerate(runs):
            lengths = run.norms.get(name, run.norms.get(name.partition(" on ")[0]))
            if lengths is not None:
                right = run.right[: len(lengths)]
                lengths = lengths[: len(right)]
                label = _label(run.report).replace("\n", ": ")
                steps(axis, right, lengths, label, f"C{i}", reach=reach)
        axis.set(
            title=name, xlabel=f"{norm} norm of the perturbation", ylabel="accuracy", ylim=(0, 1.02)
        )
        axis.set_xlim(0, reach)
        axis.grid(alpha=0.3)
    places[0, 0].legend(fontsize=7)
    return png(figure)


def sensitivity(runs: Sequence[Run], norm: balls.Norm) -> bytes:
    """Mean adversarial norm against Jacobian norm and local dimension, a point for each run that has
    them (Sitawarin & Wagner 2019, section 4.5)."""
    figure, [places] = axes(1, 2, (12, 4.4), sharey=True)
    measured = [run for run in runs if "analysis" in run.report and run.mean() is not None]
    for axis, measure in zip(places, ("jacobian_norm", "lid"), strict=True):
        for i, run in enumerate(measured):
            found = run.report.get("analysis", {}).get(measure)
            if found is not None:
                style = {"color": f"C{i % 10}", "marker": "os^D"[i // 10 % 4], "s": 45}
                axis.scatter(found, run.mean(), label=_label(run.report).replace("\n", ": "), **style)
        axis.grid(alpha=0.3)
        axis.margins(0.1)
    marks = dict(zip(*reversed(places[0].get_legend_handles_labels()), strict=True))
    figure.legend(marks.values(), marks, loc="outside right upper", fontsize=8)
    places[0].set(xscale="log", xlabel="spectral norm of the Jacobian of the features")
    places[0].xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 3.0)))
    places[0].xaxis.set_major_formatter("{x:g}")
    places[0].xaxis.set_minor_formatter(ticker.NullFormatter())
    places[0].set_ylabel(f"mean {norm} norm found on the first {len(runs[0].norm)} images")
    places[0].set_ylim(bottom=0)
    places[1].set_xlabel("local intrinsic dimension of the features")
    return png(figure)


def _label(report: Report) -> str:
    return f"{report['name']}\n{report['decider']}"
