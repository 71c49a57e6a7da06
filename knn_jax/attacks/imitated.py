"""A small network that imitates the neighbours' vote, to be attacked in its place."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array

from knn_jax import balls, classifiers, losses, neighbors
from knn_jax.attacks import outcome, projected
from knn_jax.attacks.outcome import Found, Images, Labels, Number


def imitate(
    key: Array,
    model: classifiers.KNN,
    *,
    epochs: int = 100,
    width: int = 256,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
) -> classifiers.Network:
    """A network trained to give the classes the shares that they have of k-NN's votes.

    Li et al. (2019, arXiv 1911.06591) call it a deep kNN block; what theirs is made of they leave open.
    Here a layer of `width` ReLUs on each tap's features, divided by their root mean square, whose
    softmax is fitted by cross-entropy to the votes of the bank's own rows, each left out of its
    neighbours. Taps' shares are added, as votes are. Each tap's training is one compiled program.

    Raises ValueError for numbers that are too small.
    """
    outcome.voting(model, whole=True)
    numbers = {"epochs": epochs, "width": width, "batch_size": batch_size}
    outcome.positive(**numbers, learning_rate=learning_rate)
    keys = jax.random.split(key, len(model.banks))
    rate = jnp.float32(learning_rate)
    blocks = tuple(
        _fit(
            own,
            bank,
            model.labels,
            rate,
            k=model.k,
            metric=model.metric,
            classes=model.classes,
            **numbers,
        )
        for own, bank in zip(keys, model.banks, strict=True)
    )
    return classifiers.Network(Partial(_logits, model.features, blocks), model.classes)


def adv_knn(
    key: Array,
    model: Any,
    x: Images,
    y: Labels,
    *,
    imitation: classifiers.Network,
    eps: Number,
    norm: balls.Norm = "linf",
    steps: int = 20,
    step_size: Number | None = None,
    restarts: int = 1,
) -> Found:
    """Ascends the cross-entropy of the model's `imitation`, judged by the model (Li et al. 2019).

    Raises ValueError for images outside [0, 1], labels out of range and numbers that are too small.
    """
    return projected.pgd(
        key,
        model,
        x,
        y,
        norm=norm,
        eps=eps,
        steps=steps,
        step_size=eps / 4 if step_size is None else step_size,
        restarts=restarts,
        refresh=0,
        loss=Partial(_cross_entropy, imitation.logits),
    )


def _cross_entropy(logits, x, y):
    return losses.cross_entropy(logits(x), y)


def _logits(features, blocks, x):
    """Log of the mean over taps of what their blocks give each class."""
    taps = zip(features(x), blocks, strict=True)
    shares = [jax.nn.log_softmax(_block(block, query)) for query, block in taps]
    return jax.nn.logsumexp(jnp.stack(shares), 0) - math.log(len(blocks))


def _block(block, features):
    hidden = jax.nn.relu(features / block["scale"] @ block["in"] + block["bias"][None])
    return hidden @ block["out"] + block["offset"][None]


@functools.partial(jax.jit, static_argnames=("k", "metric", "classes", "epochs", "width", "batch_size"))
def _fit(key, bank, labels, learning_rate, *, k, metric, classes, epochs, width, batch_size):
    rows, dim = bank.shape
    batch_size = min(batch_size, rows)

    def votes(query, row):
        every = jnp.arange(rows)
        near = neighbors.search(query, bank, min(k, rows - 1), metric=metric, labels=every, without=row)
        return neighbors.votes(labels[near.index], classes).astype(bank.dtype) / min(k, rows - 1)

    shares = neighbors.in_tiles(votes, classifiers.BATCH)(bank, jnp.arange(rows))
    first, second, key = jax.random.split(key, 3)
    parameters: Any = {
        "in": jax.random.normal(first, (dim, width), jnp.float32) * (2 / dim) ** 0.5,
        "bias": jnp.zeros(width, jnp.float32),
        "out": jax.random.normal(second, (width, classes), jnp.float32) * (2 / width) ** 0.5,
        "offset": jnp.zeros(classes, jnp.float32),
    }
    scale = jnp.maximum(jnp.sqrt(jnp.mean(jnp.square(bank))), 1e-12)
    optimizer = optax.adam(learning_rate)

    def step(carry, chosen):
        parameters, state = carry

        def loss(parameters):
            logits = _block({**parameters, "scale": scale}, bank[chosen])
            return optax.softmax_cross_entropy(logits, shares[chosen]).mean()

        with jax.numpy_dtype_promotion("standard"):  # optax.adam raises floats to integers
            updates, state = optimizer.update(jax.grad(loss)(parameters), state)
        return (optax.apply_updates(parameters, updates), state), None

    def epoch(carry, key):
        order = jax.random.permutation(key, rows)
        batches = order[: rows - rows % batch_size].reshape(-1, batch_size)
        return lax.scan(step, carry, batches)[0], None

    fitted: Any
    start = parameters, optimizer.init(parameters)
    fitted, _ = lax.scan(epoch, start, jax.random.split(key, epochs))[0]
    return {**fitted, "scale": scale}
