"""What racnn retrieves with and from: a network trained first, the candidates' keys, their table."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from knn_jax import (
    classifiers,
    config,
    data,
    defenses,
    files,
    mesh,
    neighbors,
    nets,
    progress,
    training,
)
from knn_jax.config import Config
from knn_jax.references import References, looked_up


def network(recipe: Config, dataset: data.Dataset, folder: Path) -> tuple[Any, Any]:
    """phi' and g' of paper 2, trained by cross-entropy as the recipe says: net and variables."""
    progress.say("the network whose features are retrieved by")
    return plain(recipe, nets.retriever(recipe.net), dataset, folder / "retriever")


def plain(recipe: Config, knobs: config.Net, dataset: data.Dataset, folder: Path) -> tuple[Any, Any]:
    """Another network than the recipe's, trained by cross-entropy as the recipe says, but for early
    stopping: net and variables."""
    net = nets.build(knobs, dataset.classes)
    optim = dataclasses.replace(recipe.optim, stopping_eps=0.0)
    devices = mesh.make(jax.local_devices())
    return net, training.train(defenses.basic(net), dataset, optim, folder, devices)


def adopting(defense: defenses.Defense, net: Any, variables: Any) -> defenses.Defense:
    """The defense, begun with the variables of that network."""

    def init(key, images):
        return net.adopt(defense.init(key, images), variables)

    return defense._replace(init=init)


def candidates(recipe: Config, found: tuple[Any, Any], split: data.Split, k: int) -> classifiers.KNN:
    """k-NN on the keys of the candidates, which are features of that network."""
    shape = (1, *split.images.shape[1:])
    keys = nets.features(*found, recipe.defense.layers, shape)
    width = recipe.defense.project
    if width:
        [one] = jax.eval_shape(keys, jax.ShapeDtypeStruct(shape, jnp.float32))
        dim = one.shape[1]
        matrix = jax.random.normal(jax.random.key(recipe.optim.seed), (dim, width)) / width**0.5
        keys = Partial(_projected, matrix, keys)
    images, labels = split.floats(0, len(split.labels)), split.labels
    return classifiers.knn(
        *(keys, jnp.asarray(images), jnp.asarray(labels)),
        k=k,
        names=recipe.defense.layers,
        track=lambda batches: progress.track(batches, "keys of the candidates"),
    )


def references(recipe: Config, dataset: data.Dataset, folder: Path) -> References:
    """The neighbours of every training image among the candidates, not itself; kept in the folder, and
    searched anew where the file is damaged."""
    file, shape = folder / "neighbors.npz", (len(dataset.train.labels), recipe.defense.neighbors)
    if file.exists():
        try:
            table = files.arrays(file).get("index", np.zeros(0))
            if table.shape == shape:
                return looked_up(dataset.candidates, table)
            progress.say(f"{file} is of shape {table.shape}, not {shape}: searched anew")
        except ValueError as error:
            progress.say(f"{error}: searched anew")
    near = candidates(recipe, network(recipe, dataset, folder), dataset.candidates, shape[1])
    every = jnp.arange(len(near.labels))

    @jax.jit
    def found(near, x, rows):
        query, bank = near.first(x), near.banks[0]
        if dataset.extra is None:
            return neighbors.search(query, bank, near.k, labels=every, without=rows).index
        return neighbors.search(query, bank, near.k).index

    size, parts = classifiers.BATCH, []
    for first in progress.track(range(0, shape[0], size), "neighbours of the training images"):
        rows = np.minimum(np.arange(first, first + size), shape[0] - 1)  # one shape, one program
        x = data.Split(dataset.train.images[rows], rows).floats(0, size)
        parts.append(np.asarray(found(near, x, rows)))
    table = np.concatenate(parts)[: shape[0]]
    with files.whole(file) as scratch, open(scratch, "wb") as stream:
        np.savez(stream, index=table)  # not .npy, which has no checksum
    return looked_up(dataset.candidates, table)


def _projected(matrix, keys, x):
    return keys(x)[0] @ matrix
