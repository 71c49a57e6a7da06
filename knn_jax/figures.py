"""The pictures of a report, as PNG bytes."""

import io
from typing import Any

import jax
import matplotlib
import numpy as np

from knn_jax import neighbors
from knn_jax.evaluation import Defended, Outcome

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SHOWN = 6  # examples in the grid


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def curve(report, attacked, certified, correct) -> bytes:
    """Accuracy against the L2 (and Linf) norm: what attacks leave and what is certified."""
    norms = list(dict.fromkeys(["l2", *(norm for _, norm in attacked)]))
    figure, axes = plt.subplots(
        1, len(norms), figsize=(6.4 * len(norms), 4), squeeze=False, layout="constrained"
    )
    for norm, axis in zip(norms, axes[0], strict=True):
        runs = [(name, outcome) for (name, of), outcome in attacked.items() if of == norm]
        for color, (name, outcome) in zip(("C3", "C1", "C4", "C5"), runs, strict=False):
            _steps(axis, correct, outcome.arrays["norm"], f"after {name}", color)
        if norm == "l2":
            for color, (name, outcome) in zip(("C0", "C2", "C6"), certified.items(), strict=False):
                _steps(axis, correct, outcome.arrays["radius"], f"certified: {name}", color)
        axis.set(xlabel=f"{norm} norm of the perturbation", ylabel="accuracy", ylim=(0, 1.02))
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(f"{report['name']}: {report['k']}-NN on {report['layer']}")
    return _png(figure)


def _steps(axis, correct, lengths, label, color) -> None:
    """The share of examples that are correct and whose length is above each value."""
    lengths = np.where(correct[: len(lengths)], lengths, 0.0)
    finite = np.sort(lengths[np.isfinite(lengths)])
    share = 1 - np.arange(1, len(finite) + 1) / len(lengths)
    start = np.mean(lengths > 0)
    axis.step(np.r_[0, finite], np.r_[start, share], where="post", label=label, color=color)


def examples(defended: Defended, clean: np.ndarray, outcome: Outcome) -> bytes:
    """Clean, adversarial and perturbation, and the neighbours that left and came."""
    arrays, test, model = outcome.arrays, defended.dataset.test, defended.model
    count = len(arrays["norm"])
    correct = clean[:count] == test.labels[:count]
    shown = np.flatnonzero(correct & arrays["success"] & (arrays["norm"] > 0))[:SHOWN]
    titles = ["clean", "adversarial", "perturbation"]
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
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    x, changed = test.floats(0, count)[shown], arrays["image"][shown]
    before = after = np.zeros((0, model.k), int)
    if len(shown):
        before, after = (np.asarray(_neighbours(model, images)) for images in (x, changed))
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


@jax.jit
def _neighbours(model, x):
    """Indices (batch, k) by the first tap."""
    return neighbors.search(model.features[0](x), model.banks[0], model.k).index
