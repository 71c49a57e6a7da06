"""Curves of one run: accuracy against norms, attacks against each other, credibility, clusters."""

from typing import Any

import numpy as np

from knn_jax import balls, pages
from knn_jax.chunks import Outcome
from knn_jax.diagnosis import Trust
from knn_jax.evaluation import Attacked
from knn_jax.figures.canvas import STYLES, axes, png, steps


def curve(
    report: dict[str, Any], attacked: Attacked, certified: dict[str, Outcome], correct: np.ndarray
) -> bytes:
    """Accuracy against the norm: what attacks leave and what is certified."""
    norms = list(dict.fromkeys([*(["l2"] if certified else []), *(norm for _, norm in attacked)]))
    figure, places = axes(1, len(norms), (6.4 * len(norms), 4))
    for norm, axis in zip(norms, places[0], strict=True):
        runs = [(name, outcome) for (name, of), outcome in attacked.items() if of == norm]
        entries = {entry["name"]: entry for entry in report["attacks"] if entry["norm"] == norm}
        for (color, line), (name, outcome) in zip(STYLES, runs, strict=False):
            if "trials" in outcome.arrays:
                start = np.mean(correct[: len(outcome.arrays["norm"])])
                _points(axis, entries[name], start, f"after {name}", color)
            else:
                steps(axis, correct, outcome.arrays["norm"], f"after {name}", color, line)
        if norm == "l2":
            for color, (name, outcome) in zip(("C0", "C2", "C6"), certified.items(), strict=False):
                steps(axis, correct, outcome.arrays["radius"], f"certified: {name}", color)
        axis.set(xlabel=f"{norm} norm of the perturbation", ylabel="accuracy", ylim=(0, 1.02))
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        if norm == "l2" and report["config"]["defense"]["name"] == "racnn":
            _normalised(axis, next(iter(attacked.values())).arrays["image"][0].size)
    figure.suptitle(f"{report['name']}: {pages.decider(report)}")
    return png(figure)


def _normalised(axis, size) -> None:
    """Paper 2's measure above: the squared L2 norm over the number of pixels."""
    scale = (lambda l2: l2**2 / size, lambda mean: np.sqrt(np.maximum(mean, 0) * size))
    axis.secondary_xaxis("top", functions=scale).set_xlabel("squared norm / number of pixels")


def _points(axis, entry, start, label, color) -> None:
    """Accuracy at each radius of an attack in balls, over several trials with its 95% interval."""
    accuracy = entry.get("mean_acc", entry["robust_acc"])
    reach = entry.get("interval", dict.fromkeys(accuracy, 0.0))
    radii = [0.0, *map(float, accuracy)]
    shown = {"marker": "o", "markersize": 4, "capsize": 3, "label": label, "color": color}
    axis.errorbar(radii, [start, *accuracy.values()], [0.0, *reach.values()], **shown)


def norms(report: dict[str, Any], attacked: Attacked, norm: balls.Norm) -> bytes:
    """Example by example the norms that the first attack and each other found (paper 1, figure 2)."""
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
    axis.set_title(f"{report['name']}: {pages.decider(report)}", fontsize=10)
    return png(figure)


def credibility(report: dict[str, Any], kinds: dict[str, Trust]) -> bytes:
    """The share of images with at most each credibility, for each kind of image."""
    figure, [[axis]] = axes(1, 1, (6.4, 4))
    colors = {"clean": "C0", "turned": "C2", "noise": "C7"}
    attacks = iter(("C3", "C1", "C4", "C5", "C6"))
    widths = np.linspace(4, 1.5, len(kinds))  # curves may coincide
    for width, (name, trust) in zip(widths, kinds.items(), strict=True):
        color = colors.get(name) or next(attacks, "black")
        values = np.sort(trust.credibility)
        share = np.arange(len(values) + 1) / len(values)
        style = {"color": color, "linewidth": width, "label": f"{name}: mean {values.mean():.2f}"}
        axis.step(np.r_[0, values, 1.02], np.r_[share, 1], where="post", **style)
    axis.set(xlabel="credibility", ylabel="share of images with at most this credibility")
    axis.set(xlim=(0, 1.02), ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    axis.set_title(f"{report['name']}: {pages.decider(report)}", fontsize=10)
    return png(figure)


def clusters(kinds: dict[str, tuple[np.ndarray, np.ndarray]], parts: int) -> bytes:
    """For each kind of image (points, labels) a row of pictures, one of each 3-dimensional part."""
    size = 3 * parts, 3 * len(kinds)
    figure, places = axes(len(kinds), parts, size, subplot_kw={"projection": "3d"})
    for row, (name, (points, labels)) in zip(places, kinds.items(), strict=True):
        for i, (axis, part) in enumerate(zip(row, np.split(points, parts, 1), strict=True), 1):
            axis.scatter(*part.T, c=labels, cmap="tab10", s=2)
            axis.set_title(f"{name} images, subspace {i}", fontsize=8)
            axis.tick_params(labelsize=6)
    return png(figure)
