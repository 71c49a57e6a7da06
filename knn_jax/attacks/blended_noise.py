"""Blending with noise: the simplest attack that sees nothing but decisions."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from knn_jax import balls, values
from knn_jax.attacks import batches, judgement
from knn_jax.attacks.attack import Found, MinimizationAttack
from knn_jax.attacks.bisection import BISECTIONS, bisect
from knn_jax.classifiers import Decides, GivenImages, GivenLabels
from knn_jax.neighbors import in_tiles


@values.value
class BlendedNoise(MinimizationAttack):
    """Blends an image with uniform noise and bisects to the boundary; the least of several counts.

    It needs decisions alone, and tells how far an attack gets that knows nothing of the classifier.
    """

    directions: int = 100
    """Noise images that each image is blended with."""

    needs = Decides
    cites = "Rauber et al. 2017, Foolbox, arXiv:1707.04131 (LinearSearchBlendedUniformNoise)"

    def __post_init__(self):
        values.at_least(1, directions=self.directions)

    def search(self, key, model, source, x, y, norm):
        """The least blend that is decided otherwise."""
        measure = balls.ball(norm, 0.0).norm

        def batch(place, x, y):
            keys = batches.keys(key, place)

            def fooled(image):
                return ~model.right(image, y)

            def blend(number, best):
                image, least = best
                drawn = jax.vmap(lambda k: jax.random.fold_in(k, number))(keys)
                noise = jax.vmap(lambda k: jax.random.uniform(k, x.shape[1:], x.dtype))(drawn)
                end, found = bisect(fooled, x, noise)
                length = jnp.where(found, measure(end - x), jnp.inf)
                nearer = balls.over(length < least, x.shape)
                return jnp.where(nearer, end, image), jnp.minimum(length, least)

            start = x, jnp.full(len(x), jnp.inf, x.dtype)
            return lax.fori_loop(0, self.directions, blend, start)[0]

        image = in_tiles(batch, batches.BATCH)(jnp.arange(len(x)), x, y)
        forwards = self.directions * BISECTIONS
        return judgement.judge(model, x, y, image, norm, 0, forwards)


def blended_noise(
    key: Array,
    model: Decides,
    x: GivenImages,
    y: GivenLabels,
    *,
    norm: balls.Norm = "l2",
    directions: int = 100,
) -> Found:
    """`BlendedNoise`: the least blend with uniform noise that changes the decision.

    Raises ValueError for images outside [0, 1], labels out of range and no directions.
    """
    return BlendedNoise(directions)(key, model, x, y, norm=norm)
