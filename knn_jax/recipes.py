"""A recipe brought to life: its network trained or loaded, its bank fitted."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from knn_jax import (
    classifiers,
    data,
    defenses,
    kinds,
    mesh,
    neighbors,
    nets,
    progress,
    references,
    retrievers,
    training,
)
from knn_jax.config import Config
from knn_jax.workdir import digest


class Defended(NamedTuple):
    """A recipe brought to life: its data, its classifier, and what certificates need to know."""

    dataset: data.Dataset
    model: Any
    lipschitz: float
    fingerprint: str  # of the classifier and the data
    net: Any = None  # with its variables
    sources: Mapping[str, Any] = {"model": None}  # other classifiers to take gradients of


def network(recipe: Config, dataset: data.Dataset, folder: Path) -> tuple[Any, Any]:
    """The recipe's net and its variables: given weights, trained before, or trained now."""
    if recipe.defense.name == "rotation":
        dataset = data.rotated(dataset)
    net = build(recipe, dataset)
    if recipe.net.weights:
        shape = (1, *dataset.train.images.shape[1:])
        return net, nets.load_weights(recipe.net.weights, net, shape)
    defense = defenses.build(recipe.defense, net)
    devices, beside = mesh.make(jax.local_devices()), None
    if recipe.defense.name == "ask":
        beside = references.drawn(dataset.train, recipe.defense.references)
    if recipe.defense.name == "racnn":
        beside = retrievers.references(recipe, dataset, folder)
        if recipe.net.frozen:
            _, found = retrievers.network(recipe, dataset, folder)
            defense = retrievers.adopting(defense, net, found)
    return net, training.train(defense, dataset, recipe.optim, folder, devices, beside)


def build(recipe: Config, dataset: data.Dataset) -> Any:
    """The recipe's network, without variables."""
    knobs = recipe.defense
    match knobs.name:
        case "rotation":
            return nets.build(recipe.net, data.TURNS)
        case "repulsive":
            return nets.repulsive(recipe.net, dataset.classes, knobs.dim, knobs.distance)
        case "prototypes":
            return nets.prototyped(recipe.net, dataset.classes, knobs.count, knobs.layers)
    return nets.build(recipe.net, dataset.classes)


def certifiable(recipe: Config) -> bool:
    """Whether certificates cover the classifier: distances in one layer that has a constant."""
    knobs = recipe.classifier
    one = knobs.name == "prototypes" or (knobs.name == "knn" and len(knobs.layers) == 1)
    return one and knobs.metric == "l2" and not recipe.net.name.endswith("_racnn")


def uncertified(recipe: Config) -> str:
    """What to tell of a classifier that certificates do not cover."""
    knobs = recipe.classifier
    return (
        "certificates cover neighbours in one layer by l2, and no racnn: "
        f"net.name={recipe.net.name!r}, classifier.name={knobs.name!r}, "
        f"classifier.layers={knobs.layers}, classifier.metric={knobs.metric!r}"
    )


def defend(recipe: Config, dataset: data.Dataset, folder: Path) -> Defended:
    """Trains or loads the network and fits the bank."""
    net = found = network(recipe, dataset, folder)
    named = recipe.classifier.name
    wanted = {named, *(run.source for run in kinds.runs(recipe.attack))}
    sources: dict[str, Any] = {"model": None}
    lipschitz = math.inf
    if recipe.defense.name == "racnn":
        found = retrievers.network(recipe, dataset, folder)
    if "substitute" in wanted:
        progress.say("the substitute whose gradients are followed")
        other = retrievers.plain(recipe, recipe.net, dataset, folder / "substitute")
        sources["substitute"] = classifiers.network(nets.output(*other), *_rows(recipe, dataset))
    if "network" in wanted:
        sources["network"] = classifiers.network(
            nets.output(*found), *_rows(recipe, dataset), top=recipe.classifier.top
        )
    if wanted & {"retrieval", "held"}:
        near = retrievers.candidates(recipe, found, dataset.candidates, recipe.classifier.k)
        sources["retrieval"] = classifiers.retrieval(
            near, *nets.answering(*net), top=recipe.classifier.top
        )
        sources["held"] = sources["retrieval"].held()
    if named in ("knn", "prototypes"):
        layers = recipe.classifier.layers if named == "knn" else ("points",)
        model = bank(recipe, net, dataset, layers)
        if named == "prototypes":
            model = classifiers.prototypes(model, net[0].rows(net[1]))
        if certifiable(recipe):
            lipschitz = _precisely(net[0].lipschitz, net[1], layers[0])
    else:
        model = sources[named]
    told = json.dumps(dataclasses.asdict(recipe.classifier))
    fingerprint = digest(told, *jax.tree.leaves(model), dataset.digest())
    return Defended(dataset, model, lipschitz, fingerprint, net, sources)


def bank_size(recipe: Config, dataset: data.Dataset) -> int:
    """How many rows vote."""
    rows = len(dataset.train.labels)
    return min(recipe.classifier.bank_rows or rows, rows)


def bank(
    recipe: Config, net: tuple[Any, Any], dataset: data.Dataset, layers: tuple[str, ...]
) -> classifiers.KNN:
    """The classifier on some layers of a net, given with its variables."""
    metric = recipe.classifier.metric
    images, labels = _rows(recipe, dataset)
    features = nets.features(*net, layers, (1, *images.shape[1:]))
    if certifiable(recipe):
        features = Partial(_precisely, features)
    return classifiers.knn(
        None if recipe.net.name == "pixels" and len(layers) == 1 else features,
        images,
        labels,
        k=recipe.classifier.k,
        metric=neighbors.Subspaces(recipe.net.subspaces) if metric == "subspaces" else metric,
        names=layers,
        track=lambda batches: progress.track(batches, "fitting the bank"),
    )


def _precisely(function, *args):
    """In full float32, whose rounding is what certificates allow for; accelerators take less."""
    with jax.default_matmul_precision("highest"):
        return function(*args)


def _rows(recipe: Config, dataset: data.Dataset) -> tuple[jax.Array, jax.Array]:
    """Images and labels of the bank."""
    rows = bank_size(recipe, dataset)
    return jnp.asarray(dataset.train.floats(0, rows)), jnp.asarray(dataset.train.labels[:rows])
