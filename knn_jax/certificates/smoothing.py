"""Randomized smoothing: what a classifier decides of an image with noise, and how far that surely
holds."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from scipy import stats

from knn_jax import classifiers, values
from knn_jax.certificates.certificate import Certificate, bounded
from knn_jax.classifiers import BATCH, GivenImages, Images, Predicts

ABSTAIN = -1
GUESSES = 100  # samples that choose the class to be certified, as in Cohen et al. 2019
HEAD = "idx\tlabel\tpredict\tradius\tcorrect\ttime"  # of the file that the authors' code writes


class SmoothedDecision(NamedTuple):
    """The class that noise leaves most often, ABSTAIN where that is not sure, and its L2 radius.

    Within the radius the smoothed classifier decides the same, with probability 1 - alpha for each
    image; the radius is 0 where it abstains.
    """

    predict: np.ndarray
    radius: np.ndarray


@values.value
class Smoothing(Certificate):
    """The radius of another classifier: the one given, smoothed by normal noise.

    It is run on the host too (`finish`), so not in a caller's `jit`.
    """

    sigma: float = 0.25
    """Standard deviation of the noise, in units of the images."""
    samples: int = 10_000
    """Noisy images that test the class of each image, beside the 100 that choose it."""
    alpha: float = 0.001
    """Probability, for each image, that its radius is wrong."""

    needs = Predicts
    of_features = False
    cites = "Cohen, Rosenfeld & Kolter 2019, Certified Adversarial Robustness, arXiv:1902.02918"

    def __post_init__(self):
        values.above(0, sigma=self.sigma, alpha=self.alpha)
        values.below(1, alpha=self.alpha)
        values.at_least(1, samples=self.samples)

    def check_plan(self, plan):
        """Raises ValueError for a classifier that names several classes."""
        if plan.top > 1:
            raise ValueError(f"smoothing is of the one class named, and top={plan.top}: use top=1")

    def bound(self, key, model, x, y, lipschitz):
        """How often each class is decided: `chosen` in 100 samples and `tested` in `samples` others,
        both (batch, class)."""
        del y, lipschitz
        if key is None:
            raise ValueError("key=None: smoothing draws noise, so give it a jax.random.key")
        chosen, tested = sampled(key, model, x, jnp.float32(self.sigma), self.samples)
        return {"chosen": chosen, "tested": tested}

    def finish(self, arrays, y):
        """What such counts prove of the smoothed classifier, and where it is right."""
        found = self.decide(arrays["chosen"], arrays["tested"])
        return {"predict": found.predict, "radius": found.radius, "right": found.predict == y}

    def decide(
        self, chosen: Int[np.ndarray, "batch class"], tested: Int[np.ndarray, "batch class"]
    ) -> SmoothedDecision:
        """The decisions and radii that such counts prove."""
        best = chosen.argmax(1)
        hits = np.take_along_axis(tested, best[:, None], 1)[:, 0]
        share = lower_bound(hits, self.samples, self.alpha)
        sure = share > 0.5
        radius = np.where(sure, self.sigma * stats.norm.ppf(np.where(sure, share, 0.5)), 0.0)
        return SmoothedDecision(np.where(sure, best, ABSTAIN), radius)

    def summary(self, arrays, right):
        """The accuracy of the smoothed classifier, and the share of images that it abstains from."""
        return {
            "clean_acc": float(right.mean()),
            "abstains": float(np.mean(arrays["predict"] == ABSTAIN)),
        }

    def files(self, arrays, y, index, seconds):
        """`smoothing.tsv`, a line for each image in the format of the authors' code.

        -1 stands for an abstention; a line's time is the mean over all images, in seconds.
        """
        columns = zip(index, y, arrays["predict"], arrays["radius"], arrays["right"], strict=True)
        lines = (
            f"{i}\t{label}\t{predict}\t{radius:.6g}\t{int(right)}\t{seconds / len(y):.3f}"
            for i, label, predict, radius, right in columns
        )
        return {"smoothing.tsv": "\n".join([HEAD, *lines]) + "\n"}

    def __call__(self, model, x, y=None, *, lipschitz=None, key=None) -> SmoothedDecision:
        """The decisions of the smoothed classifier and their radii; labels change nothing."""
        del y, lipschitz
        constant = self.check(model, None)
        x = classifiers.check_images(x)
        nobody = jnp.zeros(len(x), jnp.int32)
        arrays = bounded(values.arrays(self), key, model, x, nobody, constant)
        return self.decide(np.asarray(arrays["chosen"]), np.asarray(arrays["tested"]))


def smoothing(
    key: Array,
    model: Predicts,
    x: GivenImages,
    *,
    sigma: float,
    samples: int = 10_000,
    alpha: float = 0.001,
) -> SmoothedDecision:
    """`Smoothing`: certifies `model` smoothed by normal noise of deviation `sigma` (Cohen et al. 2019).

    The class is the most frequent of 100 noisy images; of `samples` others it has a share of at least
    p, by Clopper & Pearson's bound, and the radius is sigma times the normal quantile of p. `model`
    is any pytree with `predict` and `classes`, and sees noisy images unclipped. Another classifier than
    the model is certified: attacks on the model are not bounded. Not for a caller's `jit`.

    Raises ValueError for images outside [0, 1] and for numbers out of range.
    """
    return Smoothing(sigma, samples, alpha)(model, x, key=key)


def sampled(
    key: Array, model: Predicts, x: Images, sigma: float | Float[Array, ""], samples: int
) -> tuple[Int[Array, "batch class"], Int[Array, "batch class"]]:
    """How often each class is decided under noise: in 100 samples, and in `samples` others. A sample
    for which the model decides for nobody, -1, counts for no class."""
    first, second = jax.random.split(key)
    return _counts(first, model, x, sigma, GUESSES), _counts(second, model, x, sigma, samples)


def lower_bound(hits: np.ndarray, samples: int | np.ndarray, alpha: float) -> np.ndarray:
    """The lower bound of a probability, with confidence 1 - alpha, by how often it hit (Clopper &
    Pearson 1934)."""
    some = np.maximum(hits, 1)
    return np.where(hits > 0, stats.beta.ppf(alpha, some, samples - some + 1), 0.0)


@functools.partial(jax.jit, static_argnames="samples")
def _counts(key, model, x, sigma, samples):
    """The counts of each class; noise depends only on the key, the image's index and the sample's."""
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
