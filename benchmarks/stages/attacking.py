"""Attacks on a vote of 75 among a million images, beside Foolbox on soft votes of the same bank.

The bank is made on the device: a pattern for each of 10 classes and noise, in 28x28 pixels. Features
are these pixels, or `convolutions`: relu3 of `nets.mnist_convnet` with random weights, 2,048 numbers.
Foolbox differentiates soft votes (`soft_neighbors`), and what it finds is judged by our vote. Gradients
a second count every image, start and step.
"""

import functools
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from soft_neighbors import SoftNeighbors
from timing import once

from knn_jax import attacks, classifiers, nets
from stages.ledger import Figures
from stages.stage import TRY, Row, Stage

SIDE, CLASSES, K = 28, 10, 75
EPS = 0.1  # of pgd, in Linf
STEPS = 100
TEMPERATURE = 1.0  # of Foolbox's soft votes
SLICE = 50_000  # images made at once


def rows(scale: float) -> Sequence[Row]:
    """Each attack on pixels, Foolbox's, then those on convolutions."""
    bank = max(1000, int(1_000_000 * scale)), max(8, int(256 * scale))
    steps = STEPS if scale >= TRY else 10
    ours = (
        *(("pixels", name) for name in ("pgd linf", "minimum_norm l2", "minimum_norm linf")),
        *(("convolutions", name) for name in ("pgd linf", "minimum_norm l2")),
    )
    found = [
        Row(f"{name} on {features}", functools.partial(_ours, bank, features, name, steps))
        for features, name in (ours if scale >= TRY else ours[1:4:2])
    ]
    theirs = [
        Row(f"{name} on pixels", functools.partial(_theirs, bank, name, steps))
        for name in ("Foolbox pgd linf", "Foolbox ddn l2")
    ]
    return [*found[:2], *theirs, *found[2:]]


STAGE = Stage(
    "attacks",
    140.0,
    rows,
    ("images_s", "gradients_s", "seconds", "compile_s", "success", "soft_success", "mean_norm"),
)


@functools.lru_cache(maxsize=1)
def _images(rows: int, count: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The bank's images and labels, and those that are attacked."""
    patterns = 0.5 + 0.1 * jax.random.normal(jax.random.key(0), (CLASSES, SIDE, SIDE, 1))
    size = min(SLICE, rows)

    @functools.partial(jax.jit, static_argnums=1)
    def drawn(key, count):
        labels = jnp.arange(count, dtype=jnp.int32) % CLASSES
        noise = 0.15 * jax.random.normal(key, (count, SIDE, SIDE, 1))
        return jnp.clip(patterns[labels] + noise, 0.0, 1.0), labels

    keys = jax.random.split(jax.random.key(1), -(-rows // size))
    parts = [drawn(key, size) for key in keys]
    images, labels = (jnp.concatenate(leaves)[:rows] for leaves in zip(*parts, strict=True))
    return images, labels, *drawn(jax.random.key(2), count)


@functools.lru_cache(maxsize=1)
def _model(bank: tuple[int, int], features: str) -> classifiers.KNN:
    images, labels, _, _ = _images(*bank)
    if features == "pixels":
        return classifiers.knn(None, images, labels, k=K)
    net = nets.mnist_convnet().build(CLASSES)
    variables = net.init(jax.random.key(3), images[:1])
    layer = nets.features(net, variables, ("relu3",), images[:1].shape)
    return classifiers.knn(layer, images, labels, k=K)


def _ours(bank: tuple[int, int], features: str, name: str, steps: int) -> Figures:
    start = time.perf_counter()
    model = _model(bank, features)
    making = time.perf_counter() - start
    _, _, x, y = _images(*bank)

    def attack(key, model, x, y):
        if name.startswith("pgd"):
            return attacks.pgd(key, model, x, y, norm="linf", eps=EPS, steps=steps)
        norm = "linf" if name.endswith("linf") else "l2"
        return attacks.minimum_norm(key, model, x, y, norm=norm, steps=steps)

    found, seconds, compiling = once(attack, jax.random.key(4), model, x, y)
    success = np.asarray(found.success)
    moved = np.asarray(found.norm)[success]
    return _rates(len(x), int(found.gradients), seconds) | {
        "compile_s": compiling,
        "bank_s": making,
        "success": float(success.mean()),
        "mean_norm": float(moved.mean()) if len(moved) else None,
    }


def _theirs(bank: tuple[int, int], name: str, steps: int) -> Figures:
    images, labels, x, y = _images(*bank)
    soft = SoftNeighbors(images, labels, CLASSES, TEMPERATURE)
    linf = name.endswith("linf")
    run = soft.pgd(x, y, EPS, steps) if linf else soft.ddn(x, y, steps)
    run()
    start = time.perf_counter()
    image, soft_success = run()
    seconds = time.perf_counter() - start
    fooled = np.asarray(_model(bank, "pixels").predict(jnp.asarray(image)) != y)
    apart = (image - np.asarray(x)).reshape(len(image), -1)[fooled]
    norms = np.linalg.norm(apart, np.inf if linf else 2, axis=1)
    return _rates(len(image), steps, seconds) | {
        "success": float(fooled.mean()),
        "soft_success": float(soft_success.mean()),
        "mean_norm": float(norms.mean()) if len(norms) else None,
    }


def _rates(images: int, gradients: int, seconds: float) -> Figures:
    """By the gradients for each image."""
    return {
        "seconds": seconds,
        "images": images,
        "gradients": gradients,
        "images_s": images / seconds,
        "gradients_s": images * gradients / seconds,
    }
