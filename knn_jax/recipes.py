"""A recipe brought to life: checked, its network trained or loaded, its bank fitted."""

import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from knn_jax import classifiers, data, defenses, mesh, nets, progress, training
from knn_jax.config import Config


class Defended(NamedTuple):
    """A recipe brought to life: its data, its classifier, and what certificates need to know."""

    dataset: data.Dataset
    model: classifiers.KNN
    lipschitz: float
    fingerprint: str  # of bank and labels
    net: Any = None  # with its variables


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
    layers = (*recipe.classifier.layers, *recipe.ball.layers, *recipe.defense.layers)
    nets.features(net, variables, layers, shape)
    rows = recipe.classifier.bank_rows or len(dataset.train.labels)
    rows = min(rows, len(dataset.train.labels))
    if not 1 <= recipe.classifier.k <= rows:
        raise ValueError(f"k={recipe.classifier.k} neighbours asked of a bank of {rows} rows")
    missing = np.setdiff1d(np.arange(dataset.classes), dataset.train.labels[:rows])
    if missing.size:
        raise ValueError(
            f"no row of class {missing[0]} in a bank of {rows} rows: every class needs one"
        )
    if len(recipe.classifier.layers) > 1 and not recipe.attack.pairs():
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
