"""The ASK attack: class by class similarity to the nearest rows, ascended inside a ball."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from knn_jax import balls, losses
from knn_jax.attacks import outcome, projected
from knn_jax.attacks.outcome import Found, Images, Labels, Number
from knn_jax.classifiers import FAR, References
from knn_jax.neighbors import in_tiles

TEMPERATURES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # l2 wants larger ones than cosine
OWN = 2**31 - 1  # folded into keys that draw rows: no restart has this number
SHARES = 5  # weights of a layer that `tune` tries, from 0 to 1


def ask(
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
    refresh: int = 0,
    k: int | None = None,
    others: int | None = None,
    metric: losses.Metric = "cosine",
    temperature: float | Sequence[float] | Float[Array, " tap"] = 0.03,
    weights: Sequence[float] | Float[Array, " tap"] | None = None,
    targeted: bool = False,
    drawn: bool = False,
    source: Any = None,
) -> Found:
    """Ascends the ASK loss inside the eps-ball (Wang et al. 2022, eq. 4 and 5, algorithm 1).

    The loss of a layer is -log of the share of class y, where each class has the mass exp(mean of
    similarity / temperature) of its nearest rows: `k` of class y, `others` of each other class (both
    the classifier's k unless given). Layers have a `temperature` and one of the `weights` each, by
    default 1 / layers. As in the paper references are those of x throughout; with `refresh` they are
    retrieved anew every so many steps. `targeted` leaves only class y and the class whose rows are on
    average nearest; `drawn` takes rows of the other classes at random. Steps are eps / 4 unless
    given, 2/255 for the paper's 8/255. With a `source`, a classifier of other layers or another k, the
    loss and its k are of that one and `model` is asked for decisions only (the paper's gray box).

    Raises ValueError for images outside [0, 1], labels out of range and numbers that are too small.
    """
    x, y = outcome.check(model, x, y)
    source = model if source is None else source
    outcome.voting(source)
    size = projected.check(
        norm, eps, steps, eps / 4 if step_size is None else step_size, restarts, refresh
    )
    own, rivals = (source.k if count is None else count for count in (k, others))
    if not (own > 0 and rivals > 0):
        raise ValueError(f"k={own}, others={rivals}: each must be at least 1")
    temperatures, shares = _by_tap(source, temperature, weights)
    return _ask(
        key,
        model,
        source,
        x,
        y,
        jnp.float32(eps),
        size,
        temperatures,
        shares,
        norm=norm,
        steps=steps,
        restarts=restarts,
        refresh=refresh,
        own=own,
        others=rivals,
        metric=metric,
        targeted=targeted,
        drawn=drawn,
    )


def tune(
    key: Array,
    model: Any,
    x: Images,
    y: Labels,
    *,
    temperatures: Sequence[float] = TEMPERATURES,
    shares: int = SHARES,
    **settings: Any,
) -> tuple[Float[Array, " tap"], Float[Array, " tap"]]:
    """Temperatures and weights for `ask`, as its paper chose them: those that fool most of one batch.

    First the temperature, the same for all layers, at equal weights, then the weights at that
    temperature, from a grid on the simplex with `shares` values of each. Among equals the first.
    `settings` are those of `ask`. One program serves all of them; they are compared on the host, so
    not in a caller's jit.

    Raises ValueError as `ask` does, and for fewer than 2 shares.
    """

    if shares < 2 or not temperatures:
        raise ValueError(
            f"shares={shares}, temperatures={temperatures}: at least 2 values, 0 and 1, and one"
        )

    def fooled(temperature, weights):
        found = ask(key, model, x, y, temperature=temperature, weights=weights, **settings)
        return int(found.success.sum())

    source = settings.get("source") or model
    outcome.voting(source)
    taps = len(source.banks)
    equal = jnp.full(taps, 1 / taps)
    every = [jnp.full(taps, value) for value in temperatures]
    temperature = max(every, key=lambda t: fooled(t, equal))
    grid = [jnp.asarray(w, jnp.float32) for w in _simplex(taps, shares - 1)]
    return temperature, max([equal, *grid], key=lambda w: fooled(temperature, w)) if taps > 1 else equal


def information(
    model: Any,
    x: Images,
    y: Labels,
    image: Images,
    *,
    metric: losses.Metric = "cosine",
    temperature: float | Sequence[float] | Float[Array, " tap"] = 0.03,
    weights: Sequence[float] | Float[Array, " tap"] | None = None,
) -> Float[Array, " batch"]:
    """log(classes - 1) less the ASK loss at `image`, over the k references of x in every class.

    The mean over examples bounds from below, in nats, what images tell of their references of class y
    (Wang et al. 2022, proposition 1): an attack lowers it.
    """
    x, y = outcome.check(model, x, y)
    outcome.voting(model)
    if image.shape != x.shape:
        raise ValueError(f"image of shape {image.shape} beside x of {x.shape}: they must be equal")
    return _information(model, x, y, image, *_by_tap(model, temperature, weights), metric)


@functools.partial(jax.jit, static_argnames="metric")
def _information(model, x, y, image, temperatures, weights, metric):
    def batch(x, y, image):
        retrieved = _retrieved(None, model, x, y, model.k, model.k)
        loss = _loss(model, image, y, retrieved, temperatures, weights, metric)
        return losses.information(loss, model.classes)

    return in_tiles(batch, outcome.batch_size(model, x, model.k))(x, y, image)


def _simplex(taps: int, parts: int) -> np.ndarray:
    """All shares of `taps` layers in multiples of 1 / parts, which sum to one."""
    grid = np.indices((parts + 1,) * taps).reshape(taps, -1).T
    return grid[grid.sum(1) == parts] / parts


def _by_tap(source, temperature, weights):
    """Both as arrays with an entry for each layer."""
    taps = len(source.banks)
    temperatures = jnp.asarray(temperature, jnp.float32)
    shares = jnp.full(taps, 1 / taps) if weights is None else jnp.asarray(weights, jnp.float32)
    for name, array in (("temperature", temperatures), ("weights", shares)):
        if array.shape not in ((), (taps,)) or (name == "weights" and array.ndim == 0):
            raise ValueError(f"{name} of shape {array.shape} for {taps} layers: give one to each")
    if not isinstance(temperatures, Tracer):
        told = np.asarray(temperatures)  # numpy's: a caller may be traced
        if not (np.isfinite(told) & (told > 0)).all():
            raise ValueError(f"temperature={temperature}: it must be above 0")
    told = None if isinstance(shares, Tracer) else np.asarray(shares)
    if told is not None and not (np.isfinite(told).all() and told.min() >= 0 and told.max() > 0):
        raise ValueError(f"weights={weights}: they must be 0 or more, and not all 0")
    return jnp.broadcast_to(temperatures, taps), shares


@functools.partial(
    jax.jit,
    static_argnames=(
        *("norm", "steps", "restarts", "refresh"),
        *("own", "others", "metric", "targeted", "drawn"),
    ),
)
def _ask(
    key,
    model,
    source,
    x,
    y,
    eps,
    size,
    temperatures,
    weights,
    *,
    norm,
    steps,
    restarts,
    refresh,
    own,
    others,
    metric,
    targeted,
    drawn,
):
    def retrieve(keys, z, y):
        return _retrieved(keys, source, z, y, own, others, targeted=targeted, drawn=drawn)

    def loss(z, y, retrieved):
        return _loss(source, z, y, retrieved, temperatures, weights, metric)

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
        refresh=refresh,
        searches=1 + targeted,
    )


def _retrieved(keys, source, z, y, own, others, *, targeted=False, drawn=False):
    """The references of images in every tap, and which of them count."""
    references = source.references(z, max(own, others))
    mine = jnp.arange(source.classes)[None] == y[:, None]
    if drawn:
        random = _drawn(keys, source, max(own, others))
        pairs = zip(references, random, strict=True)
        references = tuple(jnp.where(mine[..., None, None], near, far) for near, far in pairs)
    there = jnp.arange(max(own, others))[None, None] < jnp.where(mine, own, others)[..., None]
    there &= jnp.abs(references[0][..., 0]) < FAR  # a class may have fewer rows
    if targeted:
        there &= (mine | _nearest_class(source, z, references, there, mine))[..., None]
    return references, there


def _loss(source, z, y, retrieved, temperatures, weights, metric):
    """The weighted sum of the layers' ASK losses."""
    references, there = retrieved
    total = jnp.zeros(len(z), z.dtype)
    taps = zip(source.features(z), references, temperatures, weights, strict=True)
    for query, rows, temperature, weight in taps:
        alike = losses.similarity(query, rows, metric) / temperature
        total += weight * losses.adversarial_soft_neighbors(alike, y, there, "mean")
    return total


def _nearest_class(source, z, references, there, mine):
    """Which class but one's own has the rows of least mean distance, summed over layers."""
    squared = source.squared_distances(z, references)
    distance = sum(jnp.mean(jnp.sqrt(d), -1, where=there) for d in squared)
    nearest = jnp.where(mine | ~there.any(-1), jnp.inf, distance).argmin(1)
    return jnp.arange(source.classes)[None] == nearest[:, None]


def _drawn(keys: Array, source: Any, count: int) -> References:
    """The features of rows of every class drawn for each example, with replacement."""
    order = jnp.argsort(source.labels)
    first = jnp.searchsorted(source.labels[order], jnp.arange(source.classes))
    rows = jnp.bincount(source.labels, length=source.classes)

    def each(key: Array) -> Int[Array, "class count"]:
        share = jax.random.uniform(jax.random.fold_in(key, OWN), (source.classes, count))
        place = (share * rows[:, None].astype(share.dtype)).astype(jnp.int32)
        return order[first[:, None] + jnp.minimum(place, rows[:, None] - 1)]

    index = jax.vmap(each)(keys)
    return tuple(bank[index] for bank in source.banks)
