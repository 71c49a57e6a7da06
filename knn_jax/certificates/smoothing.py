"""What a classifier decides about an image with noise, and how far that decision surely holds."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int
from scipy import stats

from knn_jax import classifiers
from knn_jax.classifiers import BATCH, Images

ABSTAIN = -1
GUESSES = 100  # samples that choose the class to be certified, as in the paper


class Smoothed(NamedTuple):
    """The class that noise leaves most often, ABSTAIN where that is not sure, and its L2 radius.

    Within the radius the smoothed classifier decides the same, with probability 1 - alpha for each
    image; 0 where it abstains.
    """

    predict: np.ndarray
    radius: np.ndarray


def smoothing(
    key: Array, model: Any, x: Images, *, sigma: float, samples: int = 10_000, alpha: float = 0.001
) -> Smoothed:
    """Certifies `model` smoothed by normal noise of deviation `sigma` (Cohen et al. 2019, Certify).

    The class is the most frequent of 100 noisy images; of `samples` others it has a share of at least
    p, by Clopper & Pearson's bound, and the radius is sigma times the normal quantile of p. `model`
    is any pytree with `predict` and `classes`, and sees noisy images unclipped. Another classifier than
    the model is certified: attacks on the model are not bounded. Not for a caller's `jit`.

    Raises ValueError for images outside [0, 1] and for numbers out of range.
    """
    check_smoothing(sigma, samples, alpha)
    x = classifiers.check_images(x)
    chosen, tested = sampled(key, model, x, jnp.float32(sigma), samples)
    return certified(np.asarray(chosen), np.asarray(tested), samples, sigma, alpha)


def check_smoothing(sigma: float, samples: int, alpha: float) -> None:
    """Raises ValueError for numbers out of range."""
    if not (0 < sigma < np.inf and samples > 0 and 0 < alpha < 1):
        raise ValueError(
            f"sigma={sigma}, samples={samples}, alpha={alpha}: the first two must be above 0 and "
            "finite, alpha between 0 and 1"
        )


def sampled(
    key: Array, model: Any, x: Images, sigma: Any, samples: int
) -> tuple[Int[Array, "batch class"], Int[Array, "batch class"]]:
    """How often each class is decided under noise: in 100 samples, and in `samples` others. A sample
    for which the model decides for nobody, -1, counts for no class."""
    first, second = jax.random.split(key)
    return _counts(first, model, x, sigma, GUESSES), _counts(second, model, x, sigma, samples)


def certified(
    chosen: np.ndarray, tested: np.ndarray, samples: int, sigma: float, alpha: float
) -> Smoothed:
    """The decisions and radii that such counts (batch, class) prove, the second of `samples`."""
    best = chosen.argmax(1)
    hits = np.take_along_axis(tested, best[:, None], 1)[:, 0]
    share = lower_bound(hits, samples, alpha)
    sure = share > 0.5
    radius = np.where(sure, sigma * stats.norm.ppf(np.where(sure, share, 0.5)), 0.0)
    return Smoothed(np.where(sure, best, ABSTAIN), radius)


def lower_bound(hits: np.ndarray, samples: Any, alpha: float) -> np.ndarray:
    """Of a probability, with confidence 1 - alpha, by its `hits` (Clopper & Pearson 1934)."""
    some = np.maximum(hits, 1)
    return np.where(hits > 0, stats.beta.ppf(alpha, some, samples - some + 1), 0.0)


@functools.partial(jax.jit, static_argnames="samples")
def _counts(key, model, x, sigma, samples):
    """By noise that depends on the key, the image's place and the sample's number alone."""
    together = min(samples, max(1, BATCH // len(x)))
    keys = jax.vmap(lambda place: jax.random.fold_in(key, place))(jnp.arange(len(x)))

    def add(turn, total):
        numbers = turn * together + jnp.arange(together)

        def noisy(image, key):
            own = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
            noise = jax.vmap(lambda one: jax.random.normal(one, image.shape, image.dtype))(own)
            return image[None] + sigma * noise

        images = jax.vmap(noisy)(x, keys)
        classes = model.predict(images.reshape(-1, *x.shape[1:])).reshape(len(x), together)
        votes = jax.nn.one_hot(classes, model.classes, dtype=jnp.int32)
        return total + jnp.sum(votes, 1, jnp.int32, where=(numbers < samples)[None, :, None])

    nothing = jnp.zeros((len(x), model.classes), jnp.int32)
    return lax.fori_loop(0, -(-samples // together), add, nothing)
