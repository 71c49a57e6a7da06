"""Attacks and certifies a trained classifier chunk by chunk, and resumes where it was stopped."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from knn_jax import attacks, balls, certificates, classifiers, data, nets, progress, training
from knn_jax.config import Config
from knn_jax.defenses import basic
from knn_jax.workdir import whole


class Defended(NamedTuple):
    """A recipe brought to life: its data, its classifier, and what certificates need to know."""

    dataset: data.Dataset
    model: classifiers.KNN
    lipschitz: float
    fingerprint: str  # of bank and labels


class Outcome(NamedTuple):
    """Results of one attack or certificate: arrays by name, one entry for each image."""

    arrays: dict[str, np.ndarray]
    seconds: float
    compile_seconds: float


def network(recipe: Config, dataset: data.Dataset, folder: Path) -> tuple[Any, Any]:
    """The recipe's net and its variables: given weights, trained before, or trained now."""
    net = nets.build(recipe.net, dataset.classes)
    if recipe.net.weights:
        variables = nets.load_weights(recipe.net.weights, net)
    else:
        variables = training.train(basic(net), dataset, recipe.optim, folder)
    return net, variables


def check(recipe: Config, dataset: data.Dataset) -> None:
    """Raises ValueError, before any long work, for a recipe that the set or the net cannot serve."""
    net = nets.build(recipe.net, dataset.classes)
    shape = (1, *dataset.train.images.shape[1:])
    variables = jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    if not recipe.classifier.layers:
        raise ValueError("classifier.layers is empty: name at least one")
    nets.features(net, variables, recipe.classifier.layers, shape)
    rows = recipe.classifier.bank_rows or len(dataset.train.labels)
    rows = min(rows, len(dataset.train.labels))
    if not 1 <= recipe.classifier.k <= rows:
        raise ValueError(f"k={recipe.classifier.k} neighbours asked of a bank of {rows} rows")
    classifiers.check_labels(dataset.train.labels[:rows], rows)
    for field, value in (
        ("attack.steps", recipe.attack.steps),
        ("attack.starts", recipe.attack.starts),
        ("attack.chunk", recipe.attack.chunk),
        ("certify.chunk", recipe.certify.chunk),
        ("certify.own", recipe.certify.own),
        ("certify.other", recipe.certify.other),
    ):
        if value < 1:
            raise ValueError(f"{field}={value}: it must be at least 1")
    for field, value in (
        ("attack.images", recipe.attack.images),
        ("certify.images", recipe.certify.images),
    ):
        if not 0 <= value <= len(dataset.test.labels):
            raise ValueError(f"{field}={value}: the test set has {len(dataset.test.labels)} images")


def defend(recipe: Config, dataset: data.Dataset, folder: Path) -> Defended:
    """Trains or loads the network and fits the bank."""
    net, variables = network(recipe, dataset, folder)
    rows = recipe.classifier.bank_rows or len(dataset.train.labels)
    images = dataset.train.floats(0, rows)
    model = classifiers.knn(
        nets.features(net, variables, recipe.classifier.layers, (1, *images.shape[1:])),
        jnp.asarray(images),
        jnp.asarray(dataset.train.labels[:rows]),
        k=recipe.classifier.k,
        names=recipe.classifier.layers,
        track=lambda batches: progress.track(batches, "fitting the bank"),
    )
    digest = hashlib.blake2b(digest_size=8)
    for array in (*model.banks, model.labels, dataset.test.labels, dataset.test.images[:1000]):
        digest.update(np.ascontiguousarray(array).data)
    lipschitz = net.lipschitz(variables, recipe.classifier.layers[0])
    return Defended(dataset, model, lipschitz, digest.hexdigest())


def attack(recipe: Config, defended: Defended, norm: balls.Norm, folder: Path) -> Outcome:
    """The minimum-norm attack on the first test images: norm, success, image, predictions."""
    knobs = recipe.attack

    def one(model, key, x, y):
        found = attacks.minimum_norm(
            key, model, x, y, norm=norm, steps=knobs.steps, starts=knobs.starts
        )
        clean, changed = model.predict(x), model.predict(found.image)
        keep = {"image": found.image, "norm": found.norm, "success": found.success}
        counts = {"gradients": jnp.broadcast_to(found.gradients, y.shape)}
        return {**keep, **counts, "clean": clean, "adversarial": changed}

    settings = ["minimum_norm", norm, knobs.steps, knobs.starts, knobs.chunk, knobs.seed]
    return _in_chunks(one, f"attacking {norm}", settings, defended, knobs.images, knobs, folder)


def certify(recipe: Config, defended: Defended, name: str, folder: Path) -> Outcome:
    """One certificate of the first test images: radius and clean prediction."""
    knobs = recipe.certify

    def one(model, key, x, y):
        del key
        constant = defended.lipschitz
        if name == "margin":
            radius = certificates.margin(model, x, y, lipschitz=constant)
        else:
            own, other = knobs.own, knobs.other
            radius = certificates.voronoi(model, x, y, lipschitz=constant, own=own, other=other)
        return {"radius": radius, "clean": model.predict(x)}

    settings = [name, defended.lipschitz, knobs.own, knobs.other, knobs.chunk]
    images = knobs.images or recipe.attack.images
    return _in_chunks(one, f"certifying by {name}", settings, defended, images, knobs, folder)


def _in_chunks(
    one: Callable[..., dict],
    what: str,
    settings: list,
    defended: Defended,
    images: int,
    knobs: Any,
    folder: Path,
) -> Outcome:
    """Runs `one` chunk after chunk, each kept in a file that the same settings find again."""
    model, test = defended.model, defended.dataset.test
    identity = json.dumps([settings, defended.fingerprint, model.k, jax.__version__])
    name = hashlib.blake2b(identity.encode(), digest_size=6).hexdigest()
    chunk, seed = knobs.chunk, getattr(knobs, "seed", 0)
    parts, compiled, compile_seconds = [], None, 0.0
    with progress.bar(what, images) as advance:
        for first in range(0, images, chunk):
            count = min(chunk, images - first)
            file = folder / "parts" / f"{settings[0]}_{settings[1]}_{name}" / f"{first:06d}_{count}.npz"
            if not file.exists():
                x = test.floats(first, first + count)
                y = test.labels[first : first + count]
                x, y = (np.resize(a, (chunk, *a.shape[1:])) for a in (x, y))  # one shape, one trace
                arguments = model, jax.random.fold_in(jax.random.key(seed), first), x, y
                if compiled is None:
                    start = time.perf_counter()
                    compiled = jax.jit(one).lower(*arguments).compile()
                    compile_seconds = time.perf_counter() - start
                start = time.perf_counter()
                arrays = {k: np.asarray(v)[:count] for k, v in compiled(*arguments).items()}
                arrays["seconds"] = np.asarray(time.perf_counter() - start)
                arrays["compile_seconds"] = np.asarray(compile_seconds if not parts else 0.0)
                with whole(file) as scratch, open(scratch, "wb") as stream:
                    np.savez(stream, allow_pickle=False, **arrays)
            with np.load(file) as saved:
                parts.append(dict(saved))
            advance(count)
    times = [sum(float(part.pop(k)) for part in parts) for k in ("seconds", "compile_seconds")]
    joined = {k: np.concatenate([part[k] for part in parts]) for k in parts[0]} if parts else {}
    return Outcome(joined, *times)
