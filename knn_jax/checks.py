"""What a recipe cannot ask: found before any long work, told in one line."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from knn_jax import classifiers, config, data, defenses, kinds, nets, recipes, training
from knn_jax.config import Config
from knn_jax.kinds import KINDS

CLASSIFYING = ("basic", "repulsive", "noisy")  # whose loss is of one image and its class
OWN = {  # knobs of only one kind of network
    **dict.fromkeys(("dim", "shared", "identity", "channels"), "idresnet"),
    "sweeps": "lipschitz",
    "frozen": "racnn",
    "half": "resnet18",
}


def check(recipe: Config, dataset: data.Dataset) -> None:
    """Raises ValueError, before any long work, for a recipe that the set or the net cannot serve."""
    _check_net(recipe.net)
    defenses.check(recipe.defense, recipe.net)
    if recipe.optim.augment != "none" and recipe.defense.name == "rotation":
        raise ValueError("optim.augment mirrors images, which changes the turns that rotation learns")
    net = recipes.build(recipe, dataset)
    training.check(recipe.optim, defenses.build(recipe.defense, net))
    if recipe.net.weights:
        nets.load_weights(recipe.net.weights, net, (1, *dataset.train.images.shape[1:]))
    _check_classifier(recipe, dataset)
    trained = net
    if recipe.defense.name == "racnn":
        trained = nets.build(nets.retriever(recipe.net), dataset.classes)
    _check_layers(trained, recipe.defense.layers, dataset)
    _check_layers(net, recipe.ball.layers, dataset)
    if recipe.classifier.name == "knn":
        if not recipe.classifier.layers:
            raise ValueError("classifier.layers is empty: name at least one")
        _check_layers(net, recipe.classifier.layers, dataset)
        if recipe.classifier.metric == "subspaces":
            searched = (*recipe.classifier.layers, *recipe.ball.layers)
            _check_subspaces(net, searched, recipe.net.subspaces, dataset)
    k, rows = recipe.classifier.k, recipes.bank_size(recipe, dataset)
    voting = recipe.classifier.name in ("knn", "retrieval")
    if voting and not 1 <= k <= rows:
        raise ValueError(f"k={k} neighbours asked of a bank of {rows} rows")
    missing = np.setdiff1d(np.arange(dataset.classes), dataset.train.labels[:rows])
    if missing.size:
        raise ValueError(
            f"no row of class {missing[0]} in a bank of {rows} rows: every class needs one"
        )
    _check_attacks(recipe.attack)
    if not recipes.certifiable(recipe) and not recipe.attack.names:
        raise ValueError(f"attack.names is empty; {recipes.uncertified(recipe)}")
    if recipe.certify.exact and not recipes.certifiable(recipe):
        raise ValueError(f"certify.exact: {recipes.uncertified(recipe)}")
    if recipe.certify.exact and voting and k % 2 == 0:
        other = f"use {k - 1} or {k + 1}, or leave it out"
        raise ValueError(f"certify.exact is for an odd classifier.k, and it is {k}: {other}")
    for field, value in (
        ("attack.steps", recipe.attack.steps),
        ("attack.starts", recipe.attack.starts),
        ("attack.guided_steps", recipe.attack.guided_steps),
        ("attack.guided_guides", recipe.attack.guided_guides),
        ("attack.chunk", recipe.attack.chunk),
        ("certify.chunk", recipe.certify.chunk),
        ("certify.own", recipe.certify.own),
        ("certify.other", recipe.certify.other),
    ):
        if value < 1:
            raise ValueError(f"{field}={value}: it must be at least 1")
    for field in ("guided_constant", "guided_rate"):
        if not getattr(recipe.attack, field) > 0:
            raise ValueError(f"attack.{field}={getattr(recipe.attack, field)}: it must be above 0")
    for field, value in (
        ("attack.images", recipe.attack.images),
        ("attack.baseline_images", recipe.attack.baseline_images or recipe.attack.images),
        ("certify.images", recipe.certify.images or recipe.attack.images),
    ):
        if not 1 <= value <= len(dataset.test.labels):
            raise ValueError(f"{field}={value}: the test set has {len(dataset.test.labels)} images")


def _check_net(knobs: config.Net) -> None:
    """Raises ValueError for a knob that the network does not have."""
    for field, kind in OWN.items():
        value = getattr(knobs, field)
        if value != getattr(config.Net(), field) and kind not in knobs.name:
            raise ValueError(
                f"net.{field}={value!r} is for {kind}, and net.name={knobs.name!r} is none"
            )
    if knobs.sweeps < 0:
        raise ValueError(f"net.sweeps={knobs.sweeps}: it must not be below 0")


def _check_attacks(knobs: config.Attack) -> None:
    """Raises ValueError for an attack with none of the norms, and a source that none follows."""
    for name in ("radii", "radii_linf"):
        radii = getattr(knobs, name)
        if not all(radius >= 0 for radius in radii):
            raise ValueError(f"attack.{name}={radii}: each must be 0 or more")
    runs = kinds.runs(knobs)
    for name in knobs.names:
        if name not in {run.name for run in runs}:
            has = " and ".join(KINDS[name].norms)
            raise ValueError(f"attack.norms={knobs.norms}: {name} has {has} only")
    for source in knobs.sources if runs else ():
        if source not in {run.source for run in runs}:
            follow = ", ".join(name for name, kind in KINDS.items() if kind.sourced)
            raise ValueError(
                f"attack.sources={source}: no attack of attack.names={knobs.names} follows it; "
                f"these can: {follow}"
            )


def _check_layers(net: Any, layers: tuple[str, ...], dataset: data.Dataset) -> None:
    """Raises ValueError for a layer that the net does not have."""
    nets.features(net, *_shapes(net, layers, dataset))


def _check_subspaces(net: Any, layers: tuple[str, ...], count: int, dataset: data.Dataset) -> None:
    """Raises ValueError for a layer that is no multiple of so many subspaces."""
    variables, _, shape = _shapes(net, layers, dataset)
    found = nets.taps(net, variables, shape)
    for layer in layers:
        if count < 1 or found[layer][1] % count:
            raise ValueError(
                f"classifier.metric='subspaces': the {found[layer][1]} numbers of {layer} are no "
                f"multiple of net.subspaces={count}"
            )


def _shapes(net: Any, layers: tuple[str, ...], dataset: data.Dataset) -> tuple:
    """The arguments of `nets.features` beside the net, for one image."""
    image = jax.ShapeDtypeStruct((1, *dataset.train.images.shape[1:]), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), image), layers, image.shape


def _check_classifier(recipe: Config, dataset: data.Dataset) -> None:
    """Raises ValueError for attacks and measures that the classifier does not have."""
    named = recipe.classifier.name
    prototyped = recipe.defense.name in ("repulsive", "prototypes")
    blind = recipe.net.name == "pixels" and not prototyped
    blind = blind or recipe.defense.name in defenses.CLASSLESS
    if blind and (named == "network" or "network" in recipe.attack.sources):
        raise ValueError(
            f"defense.name={recipe.defense.name!r} on net.name={recipe.net.name!r} has no output that "
            "classifies: use classifier.name='knn' and attack.sources=model"
        )
    if recipe.classifier.top > 1 and named not in ("network", "retrieval"):
        raise ValueError(
            f"classifier.top={recipe.classifier.top} is for classifier.name='network' and 'retrieval', "
            f"and it is {named!r}"
        )
    classifiers.check_top(recipe.classifier.top, dataset.classes)
    if recipe.classifier.top > 1 and recipe.certify.smoothing:
        raise ValueError(
            f"certify.smoothing is of the one class named, and classifier.top={recipe.classifier.top}"
        )
    if recipe.net.frozen and recipe.optim.weight_decay:
        raise ValueError(
            f"optim.weight_decay={recipe.optim.weight_decay} would change what net.frozen keeps: use 0"
        )
    if named == "prototypes" and not prototyped:
        raise ValueError(
            "classifier.name='prototypes' is for defense.name='repulsive' and 'prototypes', and it is "
            f"{recipe.defense.name!r}"
        )
    if named == "prototypes" and recipe.classifier.metric != recipe.defense.distance:
        raise ValueError(
            f"classifier.metric={recipe.classifier.metric!r} for prototypes of defense.distance="
            f"{recipe.defense.distance!r}: give the same, or classifier.name='network' for linf"
        )
    if "substitute" in recipe.attack.sources:
        if recipe.net.name == "pixels":
            raise ValueError("attack.sources=substitute: net.name='pixels' is not trained")
        defenses.check(config.Defense(), recipe.net)
    if "pgd_loss" in recipe.attack.names and recipe.defense.name not in CLASSIFYING:
        names = ", ".join(map(repr, CLASSIFYING))
        raise ValueError(
            f"attack.names: pgd_loss is for defense.name in {names}, and it is {recipe.defense.name!r}"
        )
    outputs = recipe.net.subspaces * recipe.net.dim
    if recipe.defense.name == "noisy" and outputs != dataset.classes:
        raise ValueError(
            f"defense.name='noisy' learns classes, {dataset.classes}, and net.subspaces x net.dim is "
            f"{outputs}: give --net.subspaces 1 --net.dim {dataset.classes}"
        )
    racnn = recipe.defense.name == "racnn"
    if not racnn and (named == "retrieval" or "held" in recipe.attack.sources):
        raise ValueError(
            "classifier.name='retrieval' and attack.sources=held are for defense.name='racnn', and it "
            f"is {recipe.defense.name!r}"
        )
    count, rows = recipe.defense.neighbors, len(dataset.candidates.labels)
    if racnn and not count < rows:
        raise ValueError(f"defense.neighbors={count} asked of {rows} candidates for retrieval")
    if named == "retrieval" and recipe.classifier.k != count:
        raise ValueError(
            f"classifier.k={recipe.classifier.k} of racnn trained with defense.neighbors={count}: give "
            "the same"
        )
    if recipe.data.candidates and not racnn:
        raise ValueError(
            f"data.candidates={recipe.data.candidates!r} is for defense.name='racnn', and it is "
            f"{recipe.defense.name!r}"
        )
    if named == "retrieval" and recipe.classifier.metric != "l2":
        raise ValueError(
            f"classifier.metric={recipe.classifier.metric!r} is for neighbours that vote: racnn "
            "retrieves by l2"
        )
    if named == "retrieval" and recipe.classifier.bank_rows:
        raise ValueError("classifier.bank_rows is for neighbours that vote: racnn retrieves from all")
    if named == "knn":
        return
    if recipe.analyze.images or recipe.analyze.credibility:
        raise ValueError(f"analyze is for classifier.name='knn', and it is {named!r}")
    for name in recipe.attack.names:
        kind = KINDS[name]
        if kind.learns or (kind.voting and named != "prototypes"):
            raise ValueError(f"attack.names: {name} is for classifier.name='knn', and it is {named!r}")
