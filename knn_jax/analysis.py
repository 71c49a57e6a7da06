"""What a representation is like: how many dimensions it has locally, how much it stretches an image."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Num

from knn_jax import balls, neighbors
from knn_jax.classifiers import BATCH, Images
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
