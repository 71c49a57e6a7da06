"""The pictures of a report and of several side by side, as PNG bytes."""

import io
from typing import Any

import jax.numpy as jnp
import matplotlib
import numpy as np

from knn_jax import pages
from knn_jax.chunks import Outcome
from knn_jax.recipes import Defended

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Of attacks: dashed once there are more than colours.
COLORS = ("C3", "C1", "C4", "C5", "C8", "C9", "C7", "C0")
STYLES = [(color, line) for line in ("-", "--", ":") for color in COLORS]
SHOWN = 6  # examples in the grid
NUMBERED = 20  # classes at most whose confusions are also written


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def curve(report, attacked, certified, correct) -> bytes:
    """Accuracy against the norm: what attacks leave and what is certified."""
    norms = list(dict.fromkeys([*(["l2"] if certified else []), *(norm for _, norm in attacked)]))
    figure, axes = plt.subplots(
        1, len(norms), figsize=(6.4 * len(norms), 4), squeeze=False, layout="constrained"
    )
    for norm, axis in zip(norms, axes[0], strict=True):
        runs = [(name, outcome) for (name, of), outcome in attacked.items() if of == norm]
        entries = {entry["name"]: entry for entry in report["attacks"] if entry["norm"] == norm}
        for (color, line), (name, outcome) in zip(STYLES, runs, strict=False):
            if "trials" in outcome.arrays:
                start = np.mean(correct[: len(outcome.arrays["norm"])])
                _points(axis, entries[name], start, f"after {name}", color)
            else:
                _steps(axis, correct, outcome.arrays["norm"], f"after {name}", color, line)
        if norm == "l2":
            for color, (name, outcome) in zip(("C0", "C2", "C6"), certified.items(), strict=False):
                _steps(axis, correct, outcome.arrays["radius"], f"certified: {name}", color)
        axis.set(xlabel=f"{norm} norm of the perturbation", ylabel="accuracy", ylim=(0, 1.02))
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        if norm == "l2" and report["config"]["defense"]["name"] == "racnn":
            _normalised(axis, next(iter(attacked.values())).arrays["image"][0].size)
    figure.suptitle(f"{report['name']}: {pages.decider(report)}")
    return _png(figure)


def _normalised(axis, size) -> None:
    """Paper 2's measure above: the squared L2 norm over the number of pixels."""
    scale = (lambda l2: l2**2 / size, lambda mean: np.sqrt(np.maximum(mean, 0) * size))
    axis.secondary_xaxis("top", functions=scale).set_xlabel("squared norm / number of pixels")


def _steps(axis, correct, lengths, label, color, line="-") -> None:
    """The share of examples that are correct and whose length is above each value."""
    lengths = np.where(correct[: len(lengths)], lengths, 0.0)
    finite = np.sort(lengths[np.isfinite(lengths) & (lengths > 0)])
    start = np.mean(lengths > 0)
    share = start - np.arange(1, len(finite) + 1) / len(lengths)
    axis.step(
        np.r_[0, finite], np.r_[start, share], where="post", label=label, color=color, linestyle=line
    )


def _points(axis, entry, start, label, color) -> None:
    """Accuracy at each radius of an attack in balls, over several trials with its 95% interval."""
    accuracy = entry.get("mean_acc", entry["robust_acc"])
    reach = entry.get("interval", dict.fromkeys(accuracy, 0.0))
    radii = [0.0, *map(float, accuracy)]
    shown = {"marker": "o", "markersize": 4, "capsize": 3, "label": label, "color": color}
    axis.errorbar(radii, [start, *accuracy.values()], [0.0, *reach.values()], **shown)


def norms(report, attacked, norm) -> bytes:
    """Example by example the norms that the first attack and each other found (paper 1, figure 2)."""
    runs = [(name, outcome.arrays["norm"]) for (name, of), outcome in attacked.items() if of == norm]
    (first, across), *others = runs
    figure, axis = plt.subplots(figsize=(5, 5), layout="constrained")
    widest = 0.0
    for color, (name, up) in zip(("C1", "C4", "C5"), others, strict=False):
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
    return _png(figure)


def credibility(report, kinds) -> bytes:
    """The share of images with at most each credibility, for each kind of image."""
    figure, axis = plt.subplots(figsize=(6.4, 4), layout="constrained")
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
    return _png(figure)


def clusters(kinds, parts: int) -> bytes:
    """For each kind of image (points, labels) a row of pictures, one of each 3-dimensional part."""
    size, style = (3 * parts, 3 * len(kinds)), {"projection": "3d"}
    figure, axes = plt.subplots(
        len(kinds), parts, figsize=size, squeeze=False, layout="constrained", subplot_kw=style
    )
    for row, (name, (points, labels)) in zip(axes, kinds.items(), strict=True):
        for i, (axis, part) in enumerate(zip(row, np.split(points, parts, 1), strict=True), 1):
            axis.scatter(*part.T, c=labels, cmap="tab10", s=2)
            axis.set_title(f"{name} images, subspace {i}", fontsize=8)
            axis.tick_params(labelsize=6)
    return _png(figure)


def examples(defended: Defended, clean: np.ndarray, outcome: Outcome) -> bytes:
    """Clean, adversarial and perturbation, and the neighbours, if it has any, that left and came."""
    arrays, test, model = outcome.arrays, defended.dataset.test, defended.model
    count = len(arrays["norm"])
    correct = clean[:count] == test.labels[:count]
    shown = np.flatnonzero(correct & arrays["success"] & (arrays["norm"] > 0))[:SHOWN]
    titles = ["clean", "adversarial", "perturbation"]
    searches = hasattr(model, "retrieved")
    if searches:
        titles += [f"{which} neighbour {i}" for which in ("lost", "new") for i in (1, 2, 3)]
    figure, axes = plt.subplots(
        max(1, len(shown)),
        len(titles),
        figsize=(1.35 * len(titles), 1.5 * max(1, len(shown)) + 0.4),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set_axis_off()
        axis.set_box_aspect(test.images.shape[1] / test.images.shape[2])  # also where there is none
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    x, changed = test.floats(0, count)[shown], arrays["image"][shown]
    before = after = np.zeros((len(shown), 0), int)
    if len(shown) and searches:
        before, after = (np.asarray(model.retrieved(jnp.asarray(images))) for images in (x, changed))
    for row, i in enumerate(shown):
        lost = [j for j in before[row] if j not in set(after[row])][:3]
        came = [j for j in after[row] if j not in set(before[row])][:3]
        delta = changed[row] - x[row]
        delta = 0.5 + delta / (2 * np.abs(delta).max())
        images = [x[row], changed[row], delta]
        names = [str(clean[i]), str(arrays["adversarial"][i]), f"{arrays['norm'][i]:.2f}"]
        places = [0, 1, 2, *range(3, 3 + len(lost)), *range(6, 6 + len(came))]
        images += [np.asarray(model.images[j]) for j in (*lost, *came)]
        names += [str(int(model.labels[j])) for j in (*lost, *came)]
        for place, image, name in zip(places, images, names, strict=True):
            axis = axes[row, place]
            axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1)
            axis.text(0.03, 0.95, name, transform=axis.transAxes, color="orange", va="top", fontsize=9)
    return _png(figure)


def retrieved(defended: Defended, clean: np.ndarray, outcome: Outcome) -> bytes:
    """What is retrieved for images as they are, and below for what they were changed to (paper 2,
    figure 4), with labels: those of the rows, and the class that the query is given."""
    arrays, test, model = outcome.arrays, defended.dataset.test, defended.model
    shown = np.flatnonzero(arrays["success"] & (arrays["norm"] > 0))[:SHOWN]
    queries = np.zeros((0, *test.images.shape[1:]), np.float32)
    given = np.zeros(0, int)
    if len(shown):
        pairs = [test.floats(0, len(arrays["norm"]))[shown], arrays["image"][shown]]
        queries = np.stack(pairs, 1).reshape(-1, *test.images.shape[1:])
        given = np.stack([clean[shown], arrays["adversarial"][shown]], 1).reshape(-1)
    rows, columns = max(1, len(queries)), 1 + min(model.k, SHOWN + 4)
    figure, axes = plt.subplots(
        rows, columns, figsize=(0.9 * columns, rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set_axis_off()
    near = np.asarray(model.retrieved(jnp.asarray(queries))) if len(queries) else given[:, None]
    for line, query, label, index in zip(axes, queries, given, near, strict=False):
        images = [query, *np.asarray(model.images[index[: columns - 1]])]
        labels = [label, *np.asarray(model.labels[index[: columns - 1]])]
        for axis, image, name in zip(line, images, labels, strict=True):
            axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1)
            axis.text(
                0.03, 0.95, str(name), transform=axis.transAxes, color="orange", va="top", fontsize=9
            )
    figure.suptitle("queries, each below as it was changed, and the rows retrieved", fontsize=10)
    return _png(figure)


def errors(labels: np.ndarray, given: np.ndarray) -> np.ndarray:
    """How many images of each class (row) are given each other class (column)."""
    classes = int(max(labels.max(), given.max())) + 1
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, given), labels != given)
    return counts


def confusion(runs) -> bytes:
    """For each (title, labels, given) how often images of each class are given each other class (paper
    5, figure 5)."""
    figure, axes = plt.subplots(
        1, len(runs), figsize=(4.2 * len(runs), 4.4), squeeze=False, layout="constrained"
    )
    for axis, (title, labels, given) in zip(axes[0], runs, strict=True):
        counts = errors(labels, given)
        classes = len(counts)
        axis.imshow(counts, cmap="Oranges")
        for (row, column), count in np.ndenumerate(counts):
            if count and classes <= NUMBERED:
                color = "white" if 2 * count > counts.max() else "black"
                axis.text(column, row, str(count), ha="center", va="center", fontsize=8, color=color)
        axis.set(xlabel="class given", ylabel="class")
        if classes <= NUMBERED:
            axis.set(xticks=range(classes), yticks=range(classes))
        axis.set_title(title, fontsize=9)
    return _png(figure)


def lookalikes(defended: Defended, clean: np.ndarray, outcome: Outcome) -> bytes:
    """Images, what they were changed to, and of the class that these are given the nearest sample that
    is classified as such (paper 5, figure 5c)."""
    arrays, test = outcome.arrays, defended.dataset.test
    shown = np.flatnonzero(arrays["success"] & (arrays["norm"] > 0))[:SHOWN]
    figure, axes = plt.subplots(
        *(3, max(1, len(shown))),
        figsize=(1.3 * max(1, len(shown)) + 0.4, 4.2),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for axis, name in zip(axes[:, 0], ("clean", "adversarial", "nearest"), strict=True):
        axis.set_ylabel(name, fontsize=8)
    if len(shown):
        changed, given = arrays["image"][shown], arrays["adversarial"][shown]
        near, there = defended.model.nearest_sample(jnp.asarray(changed), jnp.asarray(given))
        x = test.floats(0, len(arrays["norm"]))[shown]
        names = [clean[shown], given, np.where(np.asarray(there), given, "none")]
        for line, images, told in zip(axes, (x, changed, np.asarray(near)), names, strict=True):
            for axis, image, name in zip(line, images, told, strict=True):
                axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1)
                axis.set_title(str(name), fontsize=8, pad=2)
    return _png(figure)


def grid(clean, shown, runs, norm) -> bytes:
    """Below the clean images, a row for each run: its adversarial images, their perturbations scaled
    to the range of grey, and their norms (paper 1, figure 3)."""
    size = (1.1 * 2 * len(shown) + 1.6, 1.25 * (len(runs) + 1) + 0.3)
    figure, axes = plt.subplots(
        len(runs) + 1, 2 * len(shown), figsize=size, squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)

    def show(axis, image):
        axis.imshow(np.clip(image, 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1)

    for axis, i in zip(axes[0, ::2], shown, strict=True):
        show(axis, clean[i])
    names = ["clean", *(_label(run.report) for run in runs)]
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    for row, run in zip(axes[1:], runs, strict=True):
        for place, i in enumerate(shown):
            show(row[2 * place], run.image[i])
            delta = run.image[i] - clean[i]
            show(row[2 * place + 1], 0.5 + delta / (2 * np.abs(delta).max() or 1))
            told = f"{run.norm[i]:.3f}" if np.isfinite(run.norm[i]) else "none found"
            row[2 * place + 1].set_title(told, fontsize=8, pad=2)
    figure.suptitle(f"adversarial images and perturbations, with their {norm} norms", fontsize=10)
    return _png(figure)


def accuracy(runs, norm) -> bytes:
    """Accuracy against the norm, an axis for each attack and a line for each run that has it."""
    names = list(dict.fromkeys(name for run in runs for name in run.norms))
    columns = min(3, len(names))
    figure, axes = plt.subplots(
        -(-len(names) // columns),
        columns,
        figsize=(4.6 * columns, 3.4 * -(-len(names) // columns)),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis, name in zip(axes.flat, names, strict=False):
        for i, run in enumerate(runs):
            if name in run.norms:
                right = run.right[: len(run.norms[name])]
                lengths = run.norms[name][: len(right)]
                _steps(axis, right, lengths, _label(run.report).replace("\n", ": "), f"C{i}")
        axis.set(
            title=name, xlabel=f"{norm} norm of the perturbation", ylabel="accuracy", ylim=(0, 1.02)
        )
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=7)
    return _png(figure)


def sensitivity(runs, norm) -> bytes:
    """Mean adversarial norm against Jacobian norm and local dimension, a point for each run that has
    them (paper 1, section 4.5)."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    measured = [run for run in runs if "analysis" in run.report]
    for axis, measure in zip(axes, ("jacobian_norm", "lid"), strict=True):
        for i, run in enumerate(measured):
            found, mean = run.report["analysis"], run.mean()
            if found[measure] is not None and mean is not None:
                axis.scatter(found[measure], mean, color=f"C{i}")
                place = {"xytext": (6, 4), "textcoords": "offset points", "fontsize": 8}
                axis.annotate(_label(run.report), (found[measure], mean), **place)
        axis.grid(alpha=0.3)
        axis.margins(0.35, 0.25)
    axes[0].set(xscale="log", xlabel="spectral norm of the Jacobian of the features")
    axes[0].set_ylabel(f"mean {norm} norm found on the first {len(runs[0].norm)} images")
    axes[0].set_ylim(bottom=0)
    axes[1].set_xlabel("local intrinsic dimension of the features")
    return _png(figure)


def _label(report) -> str:
    return f"{report['name']}\n{pages.decider(report)}"
