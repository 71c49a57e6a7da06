"""The spectral norm of the Jacobian of features: how much they can stretch a small perturbation."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from knn_jax import neighbors, values
from knn_jax.classifiers import Images
from knn_jax.measures.measure import SECONDS, Measure, Measured

HELD = 100  # images whose Jacobians are held at once, as all activations of a network
HIGHEST = lax.Precision.HIGHEST
LITTLE = 2.0**-16  # length relative to a vector's that float32 cannot tell from none
DOUBT = 1e-6  # probability that a Jacobian's norm is farther off than the tolerance


@values.value
class JacobianNorm(Measure):
    """Spectral norm of the Jacobian of the first layer at test images, by `jacobian_norm`."""

    images: int
    """Number of test images that are measured, the first of the set."""
    steps: int = 100
    """Most Lanczos steps: 64 know the norm to 1% on MNIST, 66 on CIFAR-10."""

    cites = "Sitawarin & Wagner 2019, arXiv:1906.09525, Table 4; Kuczynski & Wozniakowski 1992"

    def __post_init__(self):
        values.at_least(1, images=self.images, steps=self.steps)

    def run(self, context):
        """The norm at each image (`jacobian_norm`), and its mean."""

        def norm(model, key, x, y):
            del key, y
            return {"jacobian_norm": jacobian_norm(Partial(_first, model), x, steps=self.steps)}

        arrays = context.over("jacobian_norm", norm, self.first(context.dataset.test), [self.steps])
        found = np.asarray(arrays["jacobian_norm"])
        told = {
            "layer": context.layer,
            "n": len(found),
            "jacobian_norm": float(found.mean()),
            SECONDS: round(float(arrays[SECONDS]), 3),
        }
        return Measured({"analysis": told}, {"jacobian_norm": found})


def _first(model, x):
    return model.features(x)[0]


def jacobian_norm(
    features: Callable[[Images], PyTree], x: Images, *, steps: int = 500, tolerance: float = 1e-2
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
            """The product J'J v, of a flat v."""
            (back,) = transpose(forward(v.reshape(x.shape)))
            return back.reshape(v.shape)

        def apart(v, basis):
            """The vector without its components in the basis."""
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
    """The vectors divided by their lengths, and the lengths, also where squares underflow."""
    scale = jnp.max(jnp.abs(v), -1, keepdims=True)
    v = v / jnp.where(scale > 0, scale, 1.0)
    length = jnp.sqrt(jnp.sum(jnp.square(v), -1, keepdims=True))
    return v / jnp.where(length > 0, length, 1.0), (scale * length)[:, 0]
