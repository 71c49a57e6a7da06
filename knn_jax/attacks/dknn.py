"""Towards the nearest group of another class, counted by sigmoids."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from knn_jax import balls, losses
from knn_jax.attacks import outcome, projected
from knn_jax.attacks.outcome import Found, Images, Labels, Number

SAMPLE = 1000  # rows of the bank that the thresholds are measured on


def dknn(
    key: Array,
    model: Any,
    x: Images,
    y: Labels,
    *,
    eps: Number,
    norm: balls.Norm = "linf",
    steps: int = 20,
    step_size: Number | None = None,
    restarts: int = 1,
    guides: int | None = None,
    slope: float = 4.0,
    metric: losses.Metric = "cosine",
) -> Found:
    """The attack on DkNN of Sitawarin & Wagner (2019, arXiv 1903.08333), as a baseline inside a ball.

    Ascends the sum of sigmoid(slope * (s - threshold)) over the `guides` (k) rows nearest to x of the
    nearest other class, averaged over layers; s is their similarity to the image, and the threshold
    what the k-th neighbour has on average, measured on 1,000 rows of the bank (the authors' code
    had four numbers measured once on one image). `metric="l2"` takes -distance / the mean one for s.
    Inside a ball as Wang et al. 2022 (tables 1 and 2) compare it, who choose the slope for each of
    their tables; on its own it searched a constant.

    Raises ValueError for images outside [0, 1], labels out of range and numbers that are too small.
    """
    x, y = outcome.check(model, x, y)
    outcome.voting(model, whole=True)
    size = projected.check(norm, eps, steps, eps / 4 if step_size is None else step_size, restarts, 0)
    count = model.k if guides is None else guides
    outcome.positive(guides=count, slope=slope)
    numbers = jnp.float32(eps), size, jnp.float32(slope)
    shape = {"norm": norm, "steps": steps, "restarts": restarts, "count": count, "metric": metric}
    return _dknn(key, model, x, y, *numbers, **shape)


@functools.partial(jax.jit, static_argnames=("norm", "steps", "restarts", "count", "metric"))
def _dknn(key, model, x, y, eps, size, slope, *, norm, steps, restarts, count, metric):
    thresholds = [_threshold(model, bank, metric) for bank in model.banks]

    def retrieve(_, z, y):
        near = model.guides(z, y, count)
        return tuple(rows[:, 1:] for rows in near.features), near.there[:, 1]

    def loss(z, y, retrieved):
        references, there = retrieved
        total = jnp.zeros(len(z), z.dtype)
        for query, rows, threshold in zip(model.features(z), references, thresholds, strict=True):
            alike = losses.similarity(query, rows, metric)[:, 0]
            lead = alike - threshold if metric == "cosine" else 1 - alike / threshold
            total += jnp.sum(jnp.where(there, losses.sigmoid(slope * lead), 0.0), -1)
        return total / len(thresholds)

    return projected.ascend(
        key,
        model,
        x,
        y,
        retrieve,
        loss,
        norm=norm,
        eps=eps,
        size=size,
        steps=steps,
        restarts=restarts,
        refresh=0,
    )


def _threshold(model, bank, metric):
    """What a row's k-th neighbour is like to it, on average, itself left out."""
    sample = bank[: min(SAMPLE, len(bank))]
    rows = jnp.arange(len(bank))
    k = min(model.k, len(bank) - 1)
    near = model.nearest(sample, bank, k, labels=rows, without=rows[: len(sample)])
    last = bank[near.index[:, -1]]
    return lax.stop_gradient(losses.similarity(sample, last[:, None, None], metric).mean())
