"""Images of one run: what was changed, what is retrieved, what it is taken for."""

import jax.numpy as jnp
import numpy as np

from knn_jax.display.canvas import SHOWN, axes, grey, png, show
from knn_jax.evaluation.resumable import Results
from knn_jax.recipe.fit import System


def examples(system: System, clean: np.ndarray, outcome: Results) -> bytes:
    """Clean, adversarial and perturbation, and the neighbours, if it has any, that left and came."""
    arrays, test, model = outcome.arrays, system.dataset.test, system.model
    count = len(arrays["norm"])
    correct = clean[:count] == test.labels[:count]
    shown = np.flatnonzero(correct & arrays["success"] & (arrays["norm"] > 0))[:SHOWN]
    titles = ["clean", "adversarial", "perturbation"]
    searches = hasattr(model, "retrieved")
    if searches:
        titles += [f"{which} neighbour {i}" for which in ("lost", "new") for i in (1, 2, 3)]
    rows = max(1, len(shown))
    figure, places = axes(rows, len(titles), (1.35 * len(titles), 1.5 * rows + 0.4))
    for axis in places.flat:
        axis.set_axis_off()
        axis.set_box_aspect(test.images.shape[1] / test.images.shape[2])  # also where there is none
    for axis, title in zip(places[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    x, changed = test.floats(0, count)[shown], arrays["image"][shown]
    before = after = np.zeros((len(shown), 0), int)
    if len(shown) and searches:
        before, after = (np.asarray(model.retrieved(jnp.asarray(images))) for images in (x, changed))
    for row, i in enumerate(shown):
        lost = [j for j in before[row] if j not in set(after[row])][:3]
        came = [j for j in after[row] if j not in set(before[row])][:3]
        images = [x[row], changed[row], grey(changed[row] - x[row])]
        names = [str(clean[i]), str(arrays["adversarial"][i]), f"{arrays['norm'][i]:.2f}"]
        filled = [0, 1, 2, *range(3, 3 + len(lost)), *range(6, 6 + len(came))]
        images += [np.asarray(model.images[j]) for j in (*lost, *came)]
        names += [str(int(model.labels[j])) for j in (*lost, *came)]
        for place, image, name in zip(filled, images, names, strict=True):
            show(places[row, place], image, name)
    return png(figure)


def retrieved(system: System, clean: np.ndarray, outcome: Results) -> bytes:
    """What is retrieved for images as they are, and below for what they were changed to (Zhao & Cho
    2018, figure 4), with labels: those of the rows, and the class that the query is given."""
    arrays, test, model = outcome.arrays, system.dataset.test, system.model
    shown = np.flatnonzero(arrays["success"] & (arrays["norm"] > 0))[:SHOWN]
    queries = np.zeros((0, *test.images.shape[1:]), np.float32)
    given = np.zeros(0, int)
    if len(shown):
        pairs = [test.floats(0, len(arrays["norm"]))[shown], arrays["image"][shown]]
        queries = np.stack(pairs, 1).reshape(-1, *test.images.shape[1:])
        given = np.stack([clean[shown], arrays["adversarial"][shown]], 1).reshape(-1)
    rows, columns = max(1, len(queries)), 1 + min(model.k, SHOWN + 4)
    figure, places = axes(rows, columns, (0.9 * columns, rows))
    for axis in places.flat:
        axis.set_axis_off()
    near = np.asarray(model.retrieved(jnp.asarray(queries))) if len(queries) else given[:, None]
    for line, query, label, index in zip(places, queries, given, near, strict=False):
        images = [query, *np.asarray(model.images[index[: columns - 1]])]
        labels = [label, *np.asarray(model.labels[index[: columns - 1]])]
        for axis, image, name in zip(line, images, labels, strict=True):
            show(axis, image, str(name))
    figure.suptitle("queries, each below as it was changed, and the rows retrieved", fontsize=10)
    return png(figure)


def lookalikes(system: System, clean: np.ndarray, outcome: Results) -> bytes:
    """Images, what they were changed to, and of the class that these are given the nearest sample that
    is classified as such (Serban et al. 2021, figure 5c)."""
    arrays, test = outcome.arrays, system.dataset.test
    shown = np.flatnonzero(arrays["success"] & (arrays["norm"] > 0))[:SHOWN]
    columns = max(1, len(shown))
    figure, places = axes(3, columns, (1.3 * columns + 0.4, 4.2))
    for axis in places.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for axis, name in zip(places[:, 0], ("clean", "adversarial", "nearest"), strict=True):
        axis.set_ylabel(name, fontsize=8)
    if len(shown):
        changed, given = arrays["image"][shown], arrays["adversarial"][shown]
        near, there = system.model.nearest_sample(jnp.asarray(changed), jnp.asarray(given))
        x = test.floats(0, len(arrays["norm"]))[shown]
        names = [clean[shown], given, np.where(np.asarray(there), given, "none")]
        for line, images, told in zip(places, (x, changed, np.asarray(near)), names, strict=True):
            for axis, image, name in zip(line, images, told, strict=True):
                show(axis, image)
                axis.set_title(str(name), fontsize=8, pad=2)
    return png(figure)
