"""Curves of one run: accuracy against norms, and attacks against each other."""

from itertools import cycle

import numpy as np

from knn_jax import balls
from knn_jax.display.canvas import CERTIFIED, STYLES, axes, png, steps
from knn_jax.evaluation.attacked import Attacked
from knn_jax.evaluation.certified import Certified
from knn_jax.report.report import Report


def curve(
    report: Report,
    attacked: Attacked,
    certified: Certified,
    correct: np.ndarray,
    *,
    normalised: bool = False,
) -> bytes:
    """Accuracy against the norm: what attacks leave and what is certified; `normalised` adds an axis
    of squared norms over the number of pixels, as Zhao & Cho 2018 measure them."""
    proven = {entry["name"]: entry["norm"] for entry in report["certificates"]}
    norms = list(dict.fromkeys([*proven.values(), *(norm for _, norm in attacked)]))
    figure, places = axes(1, len(norms), (6.4 * len(norms), 4))
    for norm, axis in zip(norms, places[0], strict=True):
        runs = [(name, outcome) for (name, of), outcome in attacked.items() if of == norm]
        entries = {entry["name"]: entry for entry in report["attacks"] if entry["norm"] == norm}
        for (color, line), (name, outcome) in zip(cycle(STYLES), runs, strict=False):
            if "trials" in outcome.arrays:
                start = np.mean(correct[: len(outcome.arrays["norm"])])
                _points(axis, entries[name], start, f"after {name}", color)
            else:
                steps(axis, correct, outcome.arrays["norm"], f"after {name}", color, line)
        drawn = [(name, results) for name, results in certified.items() if proven[name] == norm]
        for (color, line), (name, outcome) in zip(cycle(CERTIFIED), drawn, strict=False):
            right = outcome.arrays.get("right", correct)  # of the classifier that it is about
            steps(axis, right, outcome.arrays["radius"], f"certified: {name}", color, line)
        axis.set(xlabel=f"{norm} norm of the perturbation", ylabel="accuracy", ylim=(0, 1.02))
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        if norm == "l2" and normalised and attacked:
            _normalised(axis, next(iter(attacked.values())).arrays["image"][0].size)
    figure.suptitle(f"{report['name']}: {report['decider']}")
    return png(figure)


def _normalised(axis, size) -> None:
    """The squared L2 norm over the number of pixels, above the axis."""
    scale = (lambda l2: l2**2 / size, lambda mean: np.sqrt(np.maximum(mean, 0) * size))
    axis.secondary_xaxis("top", functions=scale).set_xlabel("squared norm / number of pixels")


def _points(axis, entry, start, label, color) -> None:
    """Accuracy at each radius of an attack in balls, over several trials with its 95% interval."""
    accuracy = entry.get("mean_acc", entry["robust_acc"])
    reach = entry.get("interval", dict.fromkeys(accuracy, 0.0))
    radii = [0.0, *map(float, accuracy)]
    shown = {"marker": "o", "markersize": 4, "capsize": 3, "label": label, "color": color}
    axis.errorbar(radii, [start, *accuracy.values()], [0.0, *reach.values()], **shown)


def norms(report: Report, attacked: Attacked, norm: balls.Norm) -> bytes:
    """Example by example the norms that the first attack and each other found (Sitawarin & Wagner
    2019, figure 2)."""
    runs = [(name, outcome.arrays["norm"]) for (name, of), outcome in attacked.items() if of == norm]
    (first, across), *others = runs
    figure, [[axis]] = axes(1, 1, (5, 5))
    widest = 0.0
    for (color, _), (name, up) in zip(STYLES[1:], others, strict=False):
        count = min(len(across), len(up))
        pairs = np.stack([across[:count], up[:count]])
        pairs = pairs[:, np.isfinite(pairs).all(0) & (pairs > 0).all(0)]
        widest = pairs.max(initial=widest)
        label = f"{name}: smaller for {(pairs[1] < pairs[0]).sum()} of {pairs.shape[1]}"
        axis.scatter(*pairs, s=12, alpha=0.6, color=color, label=label)
    axis.axline((0, 0), slope=1, color="C3", linewidth=1)
    limits = (0, 1.05 * widest or 1)
    named = others[0][0] if len(others) == 1 else "the others"
    axis.set(xlabel=f"{norm} norm found by {first}", ylabel=f"{norm} norm found by {named}")
    axis.set(xlim=limits, ylim=limits, aspect="equal")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    axis.set_title(f"{report['name']}: {report['decider']}", fontsize=10)
    return png(figure)
