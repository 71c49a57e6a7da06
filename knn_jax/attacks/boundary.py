"""A walk along the boundary that sees nothing but decisions."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from knn_jax import balls, classifiers, values
from knn_jax.attacks import batches, judgement
from knn_jax.attacks.attack import Found, MinimizationAttack
from knn_jax.attacks.bisection import BISECTIONS, bisect, nearest_of
from knn_jax.classifiers import Decides, GivenImages, GivenLabels
from knn_jax.neighbors import in_tiles
from knn_jax.values import given
from knn_jax.values.given import Lists

DRAWN = 24  # rows of the bank to start from
TEST = 10  # steps from one that moves along the sphere only, which delta adapts to, to the next
ALONG, TOWARDS = (0.3, 0.3), (0.1, 0.25)  # how fast delta and eps adapt, and to which share of success


Starts = Float[Array, "batch start height width channel"]


@values.value
class Boundary(MinimizationAttack):
    """A walk along the decision boundary towards x, in L2, by hard votes alone (Brendel et al. 2018).

    Each step proposes a random move of length delta times the distance along the sphere about x, then
    one towards x by eps of the distance, and keeps it where it fools and is nearer. For each image
    delta adapts so that 30% of the moves along the sphere fool, which is what every tenth step tries
    alone (the paper has 50%: on the MNIST network of Sitawarin & Wagner 2019, arXiv:1906.09525, mean
    norms after 2,500 steps are 1.71 with 30% and 1.90 with 50%), and eps so that a quarter of the
    proposals do.

    The start is the nearest of `starts`, pulled back to the boundary by bisection; by default 24 rows
    of the bank drawn at random. (On that network's kNN eight of these start at a mean of 3.40, the
    eight nearest of other classes at 4.37, for many of those are outvoted, and eight of blended noise
    at 7.10, where they fool at all: 22 of 25 images.) Where no start fools, the first proposal that
    does is one.

    The classifier is only asked `right(images, y)`, and never for a gradient, so it may be made of a
    `jax.pure_callback`.
    """

    steps: int = 5000
    """Proposals for each image."""

    norms = ("l2",)
    needs = Decides
    cites = "Brendel et al. 2018, arXiv:1712.04248"

    def __post_init__(self):
        values.at_least(1, steps=self.steps)

    def __call__(
        self,
        key: Array,
        model: PyTree,
        x: GivenImages,
        y: GivenLabels,
        *,
        norm: balls.Norm | None = None,
        source: PyTree = None,
        starts: Starts | Lists | None = None,
    ) -> Found:
        """Attacks the images x of classes y, from the `starts` or from rows of the bank.

        Raises ValueError for images outside [0, 1], labels out of range, a classifier that is not what
        the attack needs, and where there is nothing to start from.
        """
        images: classifiers.Images
        _, images, y, _ = self._admitted(model, source, x, y, norm)
        if starts is None and not hasattr(model, "images"):
            raise ValueError(f"{type(model).__name__} has no bank of images: give starts")
        begin = None if starts is None else _read_starts(starts, images.shape)
        return _walked(key, model, images, y, begin, jnp.int32(self.steps))

    def search(self, key, model, source, x, y, norm):
        """The walk from rows of the bank."""
        return _walked(key, model, x, y, None, jnp.int32(self.steps))


def boundary(
    key: Array,
    model: Decides,
    x: GivenImages,
    y: GivenLabels,
    *,
    steps: int = 5000,
    starts: Starts | Lists | None = None,
) -> Found:
    """`Boundary`: a walk along the decision boundary towards x, in L2, by hard votes alone.

    Raises ValueError for images outside [0, 1], labels out of range, no steps, and no starts.
    """
    return Boundary(steps)(key, model, x, y, starts=starts)


def _read_starts(starts: object, shape: tuple[int, ...]) -> PyTree:
    """Images to start from; ValueError for what is none for images of this shape."""
    read = given.array("starts", starts)
    if read.shape[:1] + read.shape[2:] != shape or not read.shape[1]:
        raise ValueError(f"starts {read.shape} for images {shape}: (batch, start, ...) needed")
    return classifiers.check_images(read.reshape(-1, *shape[1:])).reshape(read.shape)


@jax.jit
def _walked(key, model, x, y, starts, steps):
    length, unit = balls.l2(0.0).norm, balls.l2(0.0).steepest

    def batch(place, x, y, starts):
        keys = jax.vmap(jax.random.split)(batches.keys(key, place))

        def fooled(image):
            return ~model.right(image, y)

        def along(number, image, delta):
            """A random point at the distance of `image` from x, at an angle of about delta."""
            draw = jax.vmap(
                lambda k: jax.random.normal(jax.random.fold_in(k, number), x.shape[1:], x.dtype)
            )
            noise, away = draw(keys[:, 0]), image - x
            direction = unit(away)
            pixels = tuple(range(1, x.ndim))
            noise = noise - jnp.sum(noise * direction, pixels, keepdims=True) * direction
            delta = balls.over(delta, x.shape)
            noise = delta * balls.over(length(away), x.shape) * unit(noise)
            return jnp.clip(x + (away + noise) / jnp.sqrt(1 + jnp.square(delta)), 0.0, 1.0)

        def step(number, walk):
            image, distance, delta, eps = walk
            test = number % TEST == 0
            turned = along(number, image, delta)
            reach = jnp.where(test, 1, 1 - eps) * distance / jnp.maximum(length(turned - x), 1e-12)
            nearer = x + balls.over(jnp.minimum(reach, 1.0), x.shape) * (turned - x)
            nearer = jnp.clip(nearer, 0.0, 1.0)
            shorter, wrong = length(nearer - x), fooled(nearer)
            better = wrong & (shorter < distance)
            image = jnp.where(balls.over(better, x.shape), nearer, image)
            distance = jnp.where(better, shorter, distance)
            delta = jnp.where(test, _adapted(delta, wrong, *ALONG), delta)
            eps = jnp.where(test, eps, _adapted(eps, wrong, *TOWARDS))
            return image, distance, delta, eps

        if starts is None:
            drawn = jax.vmap(lambda k: jax.random.randint(k, (DRAWN,), 0, len(model.images)))
            starts = model.images[drawn(keys[:, 1])]
        ends = jnp.moveaxis(starts, 1, 0)
        others, found = lax.map(lambda image: bisect(fooled, x, image), ends)
        distance = jnp.where(found, jax.vmap(lambda image: length(image - x))(others), jnp.inf)
        image, least = nearest_of(others, distance)
        walk = image, least, jnp.full(len(x), 0.1, x.dtype), jnp.full(len(x), 0.01, x.dtype)
        return lax.fori_loop(0, steps, step, walk)[0]

    image = in_tiles(batch, batches.BATCH)(jnp.arange(len(x)), x, y, starts)
    count = DRAWN if starts is None else starts.shape[1]
    forwards = count * BISECTIONS + steps
    return judgement.judge(model, x, y, image, "l2", 0, forwards)


def _adapted(size, success, rate, share):
    """The step size, larger after a success and smaller after a failure: steady at that share."""
    factor = jnp.where(success, jnp.exp(rate * (1 - share)), jnp.exp(-rate * share))
    return jnp.minimum(size * factor, 0.5)
