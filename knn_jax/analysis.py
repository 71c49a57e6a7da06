"""What a representation and its votes say: local dimension, Jacobian norm, credibility."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, Num

from knn_jax import classifiers, neighbors
from knn_jax.classifiers import BATCH, Images, Labels
from knn_jax.neighbors import Sharded

HELD = 100  # images whose Jacobians are held at once, as all activations of a network
HIGHEST = lax.Precision.HIGHEST
LITTLE = 2.0**-16  # of a vector, which float32 cannot tell from none
DOUBT = 1e-6  # probability that a Jacobian's norm is farther off than the tolerance


def lid(
    query_features: Float[Array, "query dim"], bank: Num[Array, "row dim"] | Sharded, k: int = 3000
) -> Float[Array, " query"]:
    """Local intrinsic dimension about each query, by maximum likelihood over its k nearest rows.

    -1 / mean of log(d_i / d_k) over all i <= k, the last and zero term included (Amsaleg et al. 2015;
    paper 1 with k = 3000); d_i are Euclidean. 0 where a row equals the query, the formula's limit, so
    search a bank without the queries' own rows; inf where all k are equally far. 0 also where fewer
    than k rows are at a finite distance, as where features are no numbers. `bank` is one that
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
        return jnp.where(jnp.isfinite(distance).all(1), 1 / growth.mean(1), 0.0)

    return neighbors.in_tiles(batch, BATCH)(query)


def jacobian_norm(
    features: Callable[[Images], Any], x: Images, *, steps: int = 500, tolerance: float = 1e-2
) -> Float[Array, " batch"]:
    """The spectral norm of the Jacobian of `features`, (batch, dim), at each image: how much they can
    stretch a small perturbation of it in L2.

    By Lanczos iteration with J'J, each image from a start of its own. What comes back is never above
    the norm but for rounding, and below it by at most `tolerance`, relative to it, with probability
    1 - 1e-6 over the start, whatever the Jacobian: as many steps are taken as that needs (Kuczynski &
    Wozniakowski 1992), 64 for the default on 28x28 pixels, but no more than pixels or `steps`. Fewer
    `steps` leave a lower bound without that promise. The starts are drawn by the image's place in the
    batch and always the same. A step is one pass forward and one backward, of which as many numbers are
    kept as an image has. NaN where the features are no numbers.

    Raises ValueError for numbers that are too small.
    """
    if not (steps > 0 and tolerance > 0):
        raise ValueError(f"steps={steps}, tolerance={tolerance}: both must be above 0")
    features = features if isinstance(features, Partial) else Partial(features)
    return _jacobian_norm(features, x, min(steps, lanczos_steps(math.prod(x.shape[1:]), tolerance)))


def lanczos_steps(dim: int, tolerance: float) -> int:
    """After how many the root of the largest eigenvalue is known to `tolerance`, relative to it, but
    for a probability of DOUBT: 1.648 sqrt(dim) exp(-sqrt(e) (2 steps - 1)) bounds that of an error of
    e in the eigenvalue itself. After `dim` it is known."""
    error = 1 - (1 - min(tolerance, 1.0)) ** 2
    needed = (math.log(1.648 * math.sqrt(dim) / DOUBT) / math.sqrt(error) + 1) / 2
    return min(dim, math.ceil(needed))


@functools.partial(jax.jit, static_argnames="steps")
def _jacobian_norm(features, x, steps):
    def batch(place, x):
        _, forward = jax.linearize(features, x)
        transpose = jax.linear_transpose(forward, x)
        each = jax.vmap(lambda place: jax.random.fold_in(jax.random.key(0), place))(place)

        def drawn(number):
            """The start, or what an iteration goes on with that has come to its end."""
            keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(each)
            return jax.vmap(lambda key: jax.random.normal(key, (x[0].size,), x.dtype))(keys)

        def product(v):
            """J'J v of flat v."""
            (back,) = transpose(forward(v.reshape(x.shape)))
            return back.reshape(v.shape)

        def apart(v, basis):
            """Less what it has of the basis."""
            inner = jnp.einsum("bsd,bd->bs", basis, v, precision=HIGHEST)
            return v - jnp.einsum("bs,bsd->bd", inner, basis, precision=HIGHEST)

        def step(number, state):
            v, basis, matrix = state
            basis = basis.at[:, number].set(v)
            after = product(v)
            own, whole = jnp.einsum("bd,bd->b", v, after, precision=HIGHEST), _unit(after)[1]
            after, length = _unit(apart(apart(after, basis), basis))
            ended = length <= LITTLE * whole  # nothing but rounding is left
            new = _unit(apart(apart(drawn(number + 1), basis), basis))[0]
            matrix = matrix.at[:, number, number].set(own)
            matrix = matrix.at[:, number + 1, number].set(jnp.where(ended, 0.0, length), mode="drop")
            return jnp.where(ended[:, None], new, after), basis, matrix

        basis = jnp.zeros((len(x), steps, x[0].size), x.dtype)
        matrix = jnp.zeros((len(x), steps, steps), x.dtype)  # tridiagonal, its lower half
        _, _, matrix = lax.fori_loop(0, steps, step, (_unit(drawn(0))[0], basis, matrix))
        largest = jnp.linalg.eigvalsh(matrix, UPLO="L", symmetrize_input=False)[:, -1]
        return jnp.sqrt(jnp.maximum(largest, 0.0))

    return neighbors.in_tiles(batch, HELD)(jnp.arange(len(x)), x)


def _unit(v):
    """Vectors of length 1, and the lengths, also where squares underflow; zeros stay zeros."""
    scale = jnp.max(jnp.abs(v), -1, keepdims=True)
    v = v / jnp.where(scale > 0, scale, 1.0)
    length = jnp.sqrt(jnp.sum(jnp.square(v), -1, keepdims=True))
    return v / jnp.where(length > 0, length, 1.0), (scale * length)[:, 0]


class Calibration(NamedTuple):
    """Nonconformities of held-out images and their labels, ascending; from `calibrate`."""

    nonconformity: Int[Array, " held_out"]


class Credibility(NamedTuple):
    """How well predictions conform to the held-out images (Papernot & McDaniel 2018).

    prediction   the class with most votes, the lowest among equals; -1 where nobody votes
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
    votes, held_out = model.votes(classifiers.check_images(x)), calibration.nonconformity
    other = _others(model, votes)
    p = (len(held_out) - jnp.searchsorted(held_out, other)) / len(held_out)
    second, best = jnp.sort(p, 1)[:, -2:].T
    return Credibility(classifiers.predicted(votes), best, 1 - second, p)


def nonconformity(model: Any, x: Images) -> Int[Array, "batch class"]:
    """How many neighbours of each image, all taps together, are not of each class: all where features
    are no numbers, which have no neighbours."""
    return _others(model, model.votes(x))


def _others(model, votes):
    return model.k * len(model.banks) - votes
