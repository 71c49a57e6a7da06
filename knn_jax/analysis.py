"""What a representation and its votes say: local dimension, Jacobian norm, credibility."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, Num

from knn_jax import balls, classifiers, neighbors
from knn_jax.classifiers import BATCH, Images, Labels
from knn_jax.neighbors import Sharded

HELD = 100  # images whose Jacobians are held at once, as all activations of a network


def lid(
    query_features: Float[Array, "query dim"], bank: Num[Array, "row dim"] | Sharded, k: int = 3000
) -> Float[Array, " query"]:
    """Local intrinsic dimension about each query, by maximum likelihood over its k nearest rows.

    -1 / mean of log(d_i / d_k) over all i <= k, the last and zero term included (Amsaleg et al. 2015;
    paper 1 with k = 3000); d_i are Euclidean. 0 where a row equals the query, the formula's limit, so
    search a bank without the queries' own rows; inf where all k are equally far. `bank` is one that
    `neighbors.search` takes, with its errors; ValueError also for k = 1, which says nothing.
    """
    if k == 1:
        raise ValueError("k=1: the dimension is how distances grow, so use 2 neighbours or more")
    return _lid(query_features, bank, k)


@functools.partial(jax.jit, static_argnames="k")
def _lid(query, bank, k):
    def batch(query):
        distance = neighbors.search(query, bank, k).distance
        growth = jnp.where(distance > 0, jnp.log(distance[:, -1:]) - jnp.log(distance), jnp.inf)
        return 1 / growth.mean(1)

    return neighbors.in_tiles(batch, BATCH)(query)


def jacobian_norm(
    features: Callable[[Images], Any], x: Images, *, steps: int = 500, tolerance: float = 1e-2
) -> Float[Array, " batch"]:
    """The spectral norm of the Jacobian of `features`, (batch, dim), at each image: how much they can
    stretch a small perturbation of it in L2.

    By power iteration, |J v| for unit v <- J'J v, from one random v for all images. It grows to the
    norm from below and stops, for each image, where |J'J v - |J v|^2 v| <= tolerance |J v|^2, or
    after `steps`. Some singular value squared is then as near as that to |J v|^2, and the error is of
    the order of the tolerance squared unless others are nearly as large.

    Raises ValueError for numbers that are too small.
    """
    if not (steps > 0 and tolerance > 0):
        raise ValueError(f"steps={steps}, tolerance={tolerance}: both must be above 0")
    features = features if isinstance(features, Partial) else Partial(features)
    return _jacobian_norm(features, x, jnp.int32(steps), jnp.float32(tolerance))


@jax.jit
def _jacobian_norm(features, x, steps, tolerance):
    length, unit = balls.l2(0.0).norm, balls.l2(0.0).steepest

    def batch(x):
        _, forward = jax.linearize(features, x)
        transpose = jax.linear_transpose(forward, x)

        def iterate(state):
            number, v, norm, going = state
            stretched = forward(v)
            (back,) = transpose(stretched)
            found = length(stretched)
            square = jnp.square(found)
            residual = length(back - balls.over(square, v.shape) * v)
            norm = jnp.where(going, found, norm)
            return number + 1, unit(back), norm, going & (residual > tolerance * square)

        start = jax.random.normal(jax.random.key(0), x.shape[1:])
        v = unit(jnp.broadcast_to(start, x.shape))
        state = jnp.int32(0), v, jnp.zeros(len(x)), jnp.ones(len(x), bool)
        return lax.while_loop(lambda s: (s[0] < steps) & s[3].any(), iterate, state)[2]

    return neighbors.in_tiles(batch, HELD)(x)


class Calibration(NamedTuple):
    """Nonconformities of held-out images and their labels, ascending; from `calibrate`."""

    nonconformity: Int[Array, " held_out"]


class Credibility(NamedTuple):
    """How well predictions conform to the held-out images (Papernot & McDaniel 2018).

    prediction   the class with most votes, the lowest among equals
    credibility  its p-value
    confidence   1 less the second largest p-value
    p            of each class: the share of held-out images that conform no better
    """

    prediction: Labels
    credibility: Float[Array, " batch"]
    confidence: Float[Array, " batch"]
    p: Float[Array, "batch class"]


def calibrate(model: Any, x: Images, y: Labels) -> Calibration:
    """How many neighbours of each image, all taps together, are not of its class y.

    The images must not be in the bank, where each would be its own neighbour. Raises ValueError for
    images outside [0, 1], labels out of range, and no images.
    """
    x = classifiers.check_images(x)
    y = classifiers.check_labels(y, len(x), model.classes)
    return Calibration(jnp.sort(jnp.take_along_axis(nonconformity(model, x), y[:, None], 1)[:, 0]))


def credibility(model: Any, calibration: Calibration, x: Images) -> Credibility:
    """Predictions with p-values: high if the held-out images had as many neighbours of other classes.

    A class's p-value is the share of the calibration's nonconformities that are at least its own:
    among images like the held-out ones, the true class has one below t with a probability of about t.
    """
    other, held_out = nonconformity(model, classifiers.check_images(x)), calibration.nonconformity
    p = (len(held_out) - jnp.searchsorted(held_out, other)) / len(held_out)
    second, best = jnp.sort(p, 1)[:, -2:].T
    return Credibility(other.argmin(1).astype(jnp.int32), best, 1 - second, p)


def nonconformity(model: Any, x: Images) -> Int[Array, "batch class"]:
    """How many neighbours of each image, all taps together, are of other classes than each."""
    votes = model.votes(x)
    return votes.sum(1, keepdims=True) - votes
