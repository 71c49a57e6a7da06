"""Norms that `minimum_norm` finds against the gradients it takes, on classifiers of several kinds.

    python benchmarks/norms.py --out norms.json  # about an hour of a core; --only keeps some victims
    python benchmarks/norms.py --out later.json --before norms.json

The victims are k-NN on pixels and on layers of Sitawarin & Wagner's networks for MNIST (their weights
and mnist.npz in `--data`), on a network trained on scikit-learn's digits, and on two tabular sets. Each
is attacked on the same images, drawn by a seed, with several counts of steps and of starts. The file
keeps the norm of every image, so that two versions can be compared image by image; cells that it has
are not computed again.
"""

import functools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from knn_jax import attacks, classifiers, data, defenses, nets
from knn_jax.recipe import fit
from knn_jax.training import Optim

CELLS = ((10, 4), (20, 4), (40, 4), (80, 4), (160, 4), (40, 1), (40, 8))  # steps and starts
SEED = 0
Victim = tuple[classifiers.KNN, np.ndarray, np.ndarray]


def mnist(
    folder: Path, weights: str | None, layers: tuple[str, ...], k: int, rows: int | None = None
) -> Victim:
    """k-NN on pixels, or on layers of a network with the authors' weights."""
    dataset = data.NPZ(str(folder / "mnist.npz"), train_images=rows or 0).load()
    defense: defenses.Defense = defenses.Untrained(nets.Pixels())
    if weights is not None:
        path = str(folder / f"mnist_{weights}_weights.npz")
        defense = defenses.CrossEntropy(nets.mnist_convnet(), weights=path)
    return _fitted(defense, fit.KNN(layers=layers, k=k), Optim(), dataset)


def digits(folder: Path) -> Victim:
    """5-NN on the third convolution of the network of configs/digits.py."""
    del folder
    defense = defenses.CrossEntropy(nets.digits_convnet())
    return _fitted(defense, fit.KNN(layers=("relu3",), k=5), Optim(epochs=30), data.Digits().load())


def tabular(folder: Path, name: str, k: int) -> Victim:
    """k-NN on numbers scaled to [0, 1] over the training rows; test rows outside are clipped."""
    with np.load(folder / "tabular" / f"{name}.npz") as file:
        train, y, test, y_test = (
            file[part] for part in ("train", "train_labels", "test", "test_labels")
        )
    low, high = train.min(0), train.max(0)
    train, test = (np.clip((part - low) / (high - low), 0, 1) for part in (train, test))
    train, test = (part.astype(np.float32)[:, None, None] for part in (train, test))
    model = classifiers.knn(None, jnp.asarray(train), jnp.asarray(y, jnp.int32), k=k)
    return model, test, y_test.astype(np.int32)


def _fitted(defense, classifier, optim, dataset) -> Victim:
    with tempfile.TemporaryDirectory() as folder:
        model = fit.system(defense, classifier, optim, dataset, Path(folder)).model
    return model, dataset.test.floats(0, len(dataset.test.labels)), dataset.test.labels


PIXELS = functools.partial(mnist, weights=None, layers=("pixels",), rows=20_000)
VICTIMS: dict[str, Callable[[Path], Victim]] = {
    "pixels_k1": functools.partial(PIXELS, k=1),
    "pixels_k5": functools.partial(PIXELS, k=5),
    "pixels_k75": functools.partial(PIXELS, k=75),
    "digits": digits,
    "letter_k1": functools.partial(tabular, name="letter", k=1),
    "pendigits_k5": functools.partial(tabular, name="pendigits", k=5),
    "two_layers": functools.partial(
        mnist, weights="basic", layers=("relu2", "relu3"), k=5, rows=10_000
    ),
    "basic_k75": functools.partial(mnist, weights="basic", layers=("relu3",), k=75),
    "l2_adv_k75": functools.partial(mnist, weights="at", layers=("relu3",), k=75),
}
"""By name; the last three take most of the time."""


def right_images(victim: Victim, count: int) -> tuple[jax.Array, jax.Array]:
    """So many test images that the classifier gets right, drawn by the seed."""
    model, images, labels = victim
    some = np.random.default_rng(SEED).permutation(len(labels))[: 2 * count]
    x, y = jnp.asarray(images[some]), jnp.asarray(labels[some], jnp.int32)
    kept = np.flatnonzero(np.asarray(model.right(x, y)))[:count]
    return x[kept], y[kept]


def main(
    out: Path,
    data: Path = Path("../shared/data"),
    only: tuple[str, ...] = tuple(VICTIMS),
    norms: tuple[str, ...] = ("l2", "linf"),
    images: int = 30,
    cells: tuple[tuple[int, int], ...] = CELLS,
    before: Path | None = None,
) -> None:
    """Fills the file `out` and prints it, beside `before` where that is given."""
    found = json.loads(out.read_text()) if out.exists() else {}
    for name in only:
        missing = [
            (norm, cell)
            for norm in norms
            for cell in cells
            if _key(name, norm, images, cell) not in found
        ]
        if not missing:
            continue
        victim = VICTIMS[name](data)
        x, y = right_images(victim, images)
        for norm, (steps, starts) in missing:
            clock = time.process_time()
            result = attacks.minimum_norm(
                jax.random.key(SEED), victim[0], x, y, norm=norm, steps=steps, starts=starts
            )
            entry = {"gradients": int(result.gradients), "norm": np.asarray(result.norm).tolist()}
            entry["cpu_seconds"] = round(time.process_time() - clock, 2)
            found[_key(name, norm, images, (steps, starts))] = entry
            out.write_text(json.dumps(found, indent=1))
            print(name, norm, steps, starts, f"{np.mean(entry['norm']):.4f}", flush=True)
    table = Table("victim", "norm", "images", "steps x starts", "gradients", "mean norm", "less by")
    old = {} if before is None else json.loads(before.read_text())
    for key, entry in found.items():
        change = ""
        if key in old:
            less = np.subtract(old[key]["norm"], entry["norm"])
            change = f"{less.mean():.4f} +- {1.96 * less.std(ddof=1) / len(less) ** 0.5:.4f}"
        mean = f"{np.mean(entry['norm']):.4f}"
        table.add_row(*key.split(), str(entry["gradients"]), mean, change)
    Console().print(table)


def _key(name: str, norm: str, images: int, cell: tuple[int, int]) -> str:
    return f"{name} {norm} {images} {cell[0]}x{cell[1]}"


if __name__ == "__main__":
    tyro.cli(main)
