"""Up the potential of the whole bank in signed steps: paper 3's attack on its own classifier."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from knn_jax import balls, losses
from knn_jax.attacks import outcome, projected
from knn_jax.attacks.outcome import Found, Images, Labels, Number

TILE = 2048  # rows whose distances are held at once, for each of up to 128 images


def kfgsm(
    key: Array,
    model: Any,
    x: Images,
    y: Labels,
    *,
    eps: Number,
    norm: balls.Norm = "linf",
    steps: int = 30,
    step_size: Number | None = None,
    decay: Number = 0.5,
    near: Number = 7.0,
) -> Found:
    """Ascends the sum of the potentials to all rows of the bank, from x, inside the eps-ball (paper 3,
    section 2.5: k-step fast gradient sign).

    It is that of the exponential contrastive loss, of the classifier's metric, summed over layers:
    away from rows of class y beyond `near`, towards all others by e^(-`decay` d). In Linf steps are
    signs of the gradient times eps / 10 unless given. Pixels stay in [0, 1], as they need not in the
    paper. Rows are taken in tiles: never are there distances of all. `key` is not drawn from.

    Raises ValueError for images outside [0, 1], labels out of range and numbers that are too small.
    """
    del key
    x, y = outcome.check(model, x, y)
    outcome.voting(model, whole=True)
    size = projected.check(norm, eps, steps, eps / 10 if step_size is None else step_size, 1, 0)
    outcome.positive(decay=decay)
    outcome.not_negative(near=near)
    force = jnp.float32(decay), jnp.float32(near)
    return _kfgsm(model, x, y, jnp.float32(eps), size, *force, norm=norm, steps=steps)


@functools.partial(jax.jit, static_argnames=("norm", "steps"))
def _kfgsm(model, x, y, eps, size, decay, near, *, norm, steps):
    return projected.ascend(
        jax.random.key(0),
        model,
        x,
        y,
        lambda keys, z, y: (),
        lambda z, y, _: potential(model, z, y, decay, near),
        norm=norm,
        eps=eps,
        size=size,
        steps=steps,
        restarts=1,
        refresh=0,
        searches=0,
        at_random=False,
    )


def potential(model: Any, z: Images, y: Labels, decay: Number, near: Number) -> Float[Array, " batch"]:
    """Of images among all rows of the bank, tile by tile."""
    count, total = getattr(model.metric, "count", 1), jnp.zeros(len(z))
    labels = _tiled(model.labels, -1)
    for query, bank in zip(model.features(z), model.banks, strict=True):

        @jax.checkpoint  # a gradient measures the distances of a tile again
        def add(total, tile, query=query):
            rows, of = tile
            distance = losses.subspace_distances(query, rows, count)
            same = y[:, None] == of[None]
            pairs = losses.potential(distance, same, model.classes, decay=decay, near=near)
            return total + jnp.sum(pairs, 1, where=of[None] >= 0), None

        total, _ = lax.scan(add, total, (_tiled(bank, 0), labels))
    return total


def _tiled(rows, fill: int):
    """(tile, row, ...), filled up."""
    size = min(TILE, len(rows))
    width = [(0, -len(rows) % size), *[(0, 0)] * (rows.ndim - 1)]
    return jnp.pad(rows, width, constant_values=fill).reshape(-1, size, *rows.shape[1:])
