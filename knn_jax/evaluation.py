"""Attacks and certifies a trained classifier chunk by chunk, and resumes where it was stopped."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from knn_jax import (
    attacks,
    balls,
    certificates,
    classifiers,
    config,
    data,
    defenses,
    mesh,
    nets,
    progress,
    training,
)
from knn_jax.config import Config
from knn_jax.workdir import whole


class Defended(NamedTuple):
    """A recipe brought to life: its data, its classifier, and what certificates need to know."""

    dataset: data.Dataset
    model: classifiers.KNN
    lipschitz: float
    fingerprint: str  # of bank and labels
    net: Any = None  # with its variables


class Outcome(NamedTuple):
    """Results of one attack or certificate: arrays by name, one entry for each image."""

    arrays: dict[str, np.ndarray]
    seconds: float
    compile_seconds: float


L2_ONLY = ("guided", "hinged", "boundary")
Attacked = dict[tuple[str, balls.Norm], Outcome]  # by attack and norm


def network(recipe: Config, dataset: data.Dataset, folder: Path) -> tuple[Any, Any]:
    """The recipe's net and its variables: given weights, trained before, or trained now."""
    if recipe.defense.name == "rotation":
        dataset = data.rotated(dataset)
    net = _net(recipe, dataset)
    if recipe.net.weights:
        return net, nets.load_weights(recipe.net.weights, net)
    defense = defenses.build(recipe.defense, net)
    devices = mesh.make(jax.local_devices())
    return net, training.train(defense, dataset, recipe.optim, folder, devices)


def _net(recipe: Config, dataset: data.Dataset) -> Any:
    classes = data.TURNS if recipe.defense.name == "rotation" else dataset.classes
    return nets.build(recipe.net, classes)


def check(recipe: Config, dataset: data.Dataset) -> None:
    """Raises ValueError, before any long work, for a recipe that the set or the net cannot serve."""
    training.check(recipe.optim)
    defenses.check(recipe.defense, recipe.net)
    if recipe.optim.augment and recipe.defense.name == "rotation":
        raise ValueError("optim.augment mirrors images, which changes the turns that rotation learns")
    net = _net(recipe, dataset)
    if recipe.net.weights:
        nets.load_weights(recipe.net.weights, net)
    shape = (1, *dataset.train.images.shape[1:])
    variables = jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    if not recipe.classifier.layers:
        raise ValueError("classifier.layers is empty: name at least one")
    nets.features(net, variables, (*recipe.classifier.layers, *recipe.ball.layers), shape)
    rows = recipe.classifier.bank_rows or len(dataset.train.labels)
    rows = min(rows, len(dataset.train.labels))
    if not 1 <= recipe.classifier.k <= rows:
        raise ValueError(f"k={recipe.classifier.k} neighbours asked of a bank of {rows} rows")
    missing = np.setdiff1d(np.arange(dataset.classes), dataset.train.labels[:rows])
    if missing.size:
        raise ValueError(
            f"no row of class {missing[0]} in a bank of {rows} rows: every class needs one"
        )
    if len(recipe.classifier.layers) > 1 and not pairs(recipe.attack):
        raise ValueError("nothing is attacked, and certificates cover one of classifier.layers only")
    if recipe.certify.exact and recipe.classifier.metric != "l2":
        raise ValueError("certify.exact is for classifier.metric=l2: certificates are of distances")
    k = recipe.classifier.k
    if recipe.certify.exact and k % 2 == 0:
        other = f"use {k - 1} or {k + 1}, or leave it out"
        raise ValueError(f"certify.exact is for an odd classifier.k, and it is {k}: {other}")
    for field, value in (
        ("attack.steps", recipe.attack.steps),
        ("attack.starts", recipe.attack.starts),
        ("attack.guided_steps", recipe.attack.guided_steps),
        ("attack.chunk", recipe.attack.chunk),
        ("certify.chunk", recipe.certify.chunk),
        ("certify.own", recipe.certify.own),
        ("certify.other", recipe.certify.other),
    ):
        if value < 1:
            raise ValueError(f"{field}={value}: it must be at least 1")
    for field, value in (
        ("attack.images", recipe.attack.images),
        ("attack.baseline_images", recipe.attack.baseline_images or recipe.attack.images),
        ("certify.images", recipe.certify.images or recipe.attack.images),
    ):
        if not 1 <= value <= len(dataset.test.labels):
            raise ValueError(f"{field}={value}: the test set has {len(dataset.test.labels)} images")


def defend(recipe: Config, dataset: data.Dataset, folder: Path) -> Defended:
    """Trains or loads the network and fits the bank."""
    net, variables = network(recipe, dataset, folder)
    model = bank(recipe, (net, variables), dataset, recipe.classifier.layers)
    digest = hashlib.blake2b(digest_size=8)
    for array in (*model.banks, model.labels, dataset.test.labels, dataset.test.images[:1000]):
        digest.update(np.ascontiguousarray(array).data)
    lipschitz = math.inf
    if recipe.classifier.metric == "l2":
        lipschitz = net.lipschitz(variables, recipe.classifier.layers[0])
    return Defended(dataset, model, lipschitz, digest.hexdigest(), (net, variables))


def bank(
    recipe: Config, net: tuple[Any, Any], dataset: data.Dataset, layers: tuple[str, ...]
) -> classifiers.KNN:
    """The classifier on some layers of a net, given with its variables."""
    rows = recipe.classifier.bank_rows or len(dataset.train.labels)
    images = dataset.train.floats(0, rows)
    return classifiers.knn(
        nets.features(*net, layers, (1, *images.shape[1:])),
        jnp.asarray(images),
        jnp.asarray(dataset.train.labels[:rows]),
        k=recipe.classifier.k,
        metric=recipe.classifier.metric,
        names=layers,
        track=lambda batches: progress.track(batches, "fitting the bank"),
    )


def predict(recipe: Config, defended: Defended, folder: Path) -> np.ndarray:
    """The class that every test image is given without an attack."""

    def one(model, key, x, y):
        del key, y
        return {"clean": model.predict(x)}

    chunk = recipe.certify.chunk
    chunks = Chunks(
        ["predict", "clean", chunk], defended, len(defended.dataset.test.labels), chunk, 0, folder
    )
    return chunks.outcome(one, "classifying the test images").arrays["clean"]


def pairs(knobs: config.Attack) -> list[tuple[str, balls.Norm]]:
    """Each attack of a recipe with each norm that it has."""
    return [
        (name, norm)
        for name in knobs.names
        for norm in knobs.norms
        if norm == "l2" or name not in L2_ONLY
    ]


def attack(
    recipe: Config, defended: Defended, name: str, norm: balls.Norm, folder: Path, *, run: bool = True
) -> Outcome | None:
    """An attack on the first test images: norm, success, image, the class it is changed to.

    Without `run`, what earlier runs left in the folder; None if that is not all of it.
    """
    knobs = recipe.attack

    method, own = {
        "minimum_norm": (
            attacks.minimum_norm,
            {"norm": norm, "steps": knobs.steps, "starts": knobs.starts},
        ),
        "guided": (
            attacks.guided,
            {"steps": knobs.guided_steps, "constant": knobs.guided_constant},
        ),
        "hinged": (attacks.hinged, {}),
        "boundary": (attacks.boundary, {}),
    }[name]
    ours = name == "minimum_norm"
    images = knobs.images if ours else knobs.baseline_images or knobs.images

    def one(model, key, x, y):
        found = method(key, model, x, y, **own)
        true = jax.nn.one_hot(y, model.classes, dtype=jnp.int32)
        changed = jnp.argmax(2 * model.votes(found.image) - true, 1)  # a tie goes against class y
        keep = {"image": found.image, "norm": found.norm, "success": found.success}
        counts = {"gradients": jnp.broadcast_to(found.gradients, y.shape)}
        length = balls.l2(0.0).norm(found.image - x)
        keep["l2"] = jnp.where(found.success, length, jnp.inf)  # whatever the norm, for certificates
        return {**keep, **counts, "adversarial": changed}

    settings = [name, norm, own, knobs.chunk, knobs.seed]
    chunks = Chunks(settings, defended, images, knobs.chunk, knobs.seed, folder)
    return chunks.outcome(one, f"{name} {norm}") if run or chunks.complete() else None


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """For each image the attack that needed least, of those that were run on it."""
    outcomes = sorted(outcomes, key=lambda o: -len(o.arrays["norm"]))  # so the first was run on all
    images = len(outcomes[0].arrays["norm"])

    def each(name, fill):
        """The attacks' arrays of that name, filled up to all images."""
        arrays = [outcome.arrays[name] for outcome in outcomes]
        full = [np.full((images, *array.shape[1:]), fill, array.dtype) for array in arrays]
        for filled, array in zip(full, arrays, strict=True):
            filled[: len(array)] = array
        return np.stack(full)

    least = each("norm", np.inf).argmin(0)
    names = set.intersection(*(set(outcome.arrays) for outcome in outcomes))
    arrays = {name: each(name, 0)[least, np.arange(images)] for name in sorted(names)}
    arrays["gradients"] = each("gradients", 0).sum(0)
    seconds, compiling = sum(o.seconds for o in outcomes), sum(o.compile_seconds for o in outcomes)
    return Outcome(arrays, seconds, compiling)


def certify(recipe: Config, defended: Defended, name: str, folder: Path) -> Outcome:
    """One certificate of the first test images: their radii."""
    knobs = recipe.certify

    def one(model, key, x, y):
        del key
        constant = defended.lipschitz
        if name == "margin":
            radius = certificates.margin(model, x, y, lipschitz=constant)
        elif name == "exact":
            radius = certificates.exact(model, x, y, lipschitz=constant).lower
        else:
            own, other = knobs.own, knobs.other
            radius = certificates.voronoi(model, x, y, lipschitz=constant, own=own, other=other)
        return {"radius": radius}

    settings = [name, defended.lipschitz, knobs.own, knobs.other, knobs.chunk]
    images = knobs.images or recipe.attack.images
    chunks = Chunks(settings, defended, images, knobs.chunk, 0, folder)
    return chunks.outcome(one, f"certifying by {name}")


class Chunks:
    """Test images, or those of `split`, chunk by chunk; equal settings find each chunk's file again."""

    def __init__(
        self,
        settings: list,
        defended: Defended,
        images: int,
        chunk: int,
        seed: int,
        folder: Path,
        split: data.Split | None = None,
    ):
        self.defended, self.size, self.seed = defended, min(chunk, images), seed
        self.model: Any = defended.model  # what is computed with
        self.split = split or defended.dataset.test
        identity = json.dumps([settings, defended.fingerprint, defended.model.k, jax.__version__])
        digest = hashlib.blake2b(identity.encode(), digest_size=6).hexdigest()
        parts = folder / "parts" / f"{settings[0]}_{settings[1]}_{digest}"
        spans = [(first, min(chunk, images - first)) for first in range(0, images, chunk)]
        self.files = {span: parts / f"{span[0]:06d}_{span[1]}.npz" for span in spans}

    def complete(self) -> bool:
        """Whether nothing is left to compute."""
        return all(file.exists() for file in self.files.values())

    def outcome(self, one: Callable[..., dict], what: str) -> Outcome:
        """Computes `one(model, key, x, y)` where it is missing, and joins all chunks."""
        compiled, compile_seconds, parts = None, 0.0, []
        with progress.bar(what, sum(count for _, count in self.files)) as advance:
            for (first, count), file in self.files.items():
                if not file.exists():
                    arguments = self._arguments(first, count)
                    if compiled is None:
                        start = time.perf_counter()
                        compiled = jax.jit(one).lower(*arguments).compile()
                        compile_seconds = time.perf_counter() - start
                    start = time.perf_counter()
                    arrays = {k: np.asarray(v)[:count] for k, v in compiled(*arguments).items()}
                    arrays["seconds"] = np.asarray(time.perf_counter() - start)
                    arrays["compile_seconds"], compile_seconds = np.asarray(compile_seconds), 0.0
                    with whole(file) as scratch, open(scratch, "wb") as stream:
                        np.savez(stream, allow_pickle=False, **arrays)
                with np.load(file) as saved:
                    parts.append(dict(saved))
                advance(count)
        seconds, compile_seconds = (
            sum(float(part.pop(name)) for part in parts) for name in ("seconds", "compile_seconds")
        )
        arrays = {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
        return Outcome(arrays, seconds, compile_seconds)

    def _arguments(self, first: int, count: int) -> tuple:
        """Of a chunk, padded to the one shape that is compiled."""
        split = self.split
        arrays = split.floats(first, first + count), split.labels[first : first + count]
        x, y = (np.resize(array, (self.size, *array.shape[1:])) for array in arrays)
        return self.model, jax.random.fold_in(jax.random.key(self.seed), first), x, y
