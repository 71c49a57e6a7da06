"""The smallest perturbation that changes the vote."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from knn_jax import balls, values
from knn_jax.attacks import batches, judgement
from knn_jax.attacks.attack import Found, MinimizationAttack
from knn_jax.attacks.bisection import BISECTIONS, bisect, nearest_of
from knn_jax.classifiers import GivenImages, GivenLabels, Images, Scores, Votes
from knn_jax.neighbors import in_tiles

BEYOND = 10  # references of each class beyond the half of k that may step in; with 5 norms are longer
LEAST = 0.01  # radius at first, in widths of the box: a row equal to x that is outvoted is at none
SHARP = 0.1  # how much colder than soft votes ranks are
MOMENTUM = 0.75  # in Linf: what is kept of the direction; in L2 it gains nothing


@values.value
class MinimumNorm(MinimizationAttack):
    """Gradient descent in a ball whose radius follows the decision (our strongest attack).

    Normalised gradient steps in a ball that shrinks while the hard vote is fooled and grows while it is
    not (decoupled direction and norm, Rony et al. 2019), in Linf with momentum (Dong et al. 2018). The
    gradient is that of the margin of class y over the rows nearest to the current image of every class,
    at a falling temperature: by the ranks of rows where rows vote (`neighbors.ranks`), else by soft
    votes. The starts are the image itself, for a third of them the image with noise, then its nearest
    rows of other classes, pulled back to the boundary by bisection, and at last the best of all these.
    What is found is pulled back so too.
    """

    steps: int = 40
    """Gradient steps from each start."""
    starts: int = 8
    """Starts: the image, the image with noise, rows of other classes, and the best of these."""
    refresh: int = 20
    """Steps between two retrievals of the references."""

    baseline = False
    primary = True
    cites = (
        "after Rony et al. 2019, Decoupling Direction and Norm, arXiv:1811.09600; momentum of Dong et "
        "al. 2018, arXiv:1710.06081"
    )

    def __post_init__(self):
        values.at_least(1, steps=self.steps, starts=self.starts, refresh=self.refresh)

    def search(self, key, model, source, x, y, norm):
        """The least perturbation found, judged anew."""
        steps, starts, refresh = self.steps, self.starts, self.refresh
        measure = balls.ball(norm, 0.0).norm
        ranked = isinstance(model, Votes)
        count = batches.references(model)
        if ranked:
            count = max(count, min(model.k // 2 + BEYOND, len(model.images)))

        def batch(place, x, y):
            keys = batches.keys(key, place)

            def where(condition, image, other):
                return jnp.where(balls.over(condition, x.shape), image, other)

            def fooled(image):
                return ~model.right(image, y)

            def descend(state, start):
                """One run from a start, and the best of it and of those before."""
                best, steep = state
                image = where(start.again, best.image, start.image)
                radius = jnp.where(start.again, jnp.minimum(best.norm, start.radius), start.radius)
                wrong = start.wrong | (start.again & jnp.isfinite(best.norm))
                length = measure(image - x)
                # Its own best: another start's would cut this one short.
                own = Best(image, jnp.where(wrong, length, jnp.inf))
                flow = Flow(own, image, wrong, length, radius, jnp.zeros_like(x), steep)

                def step(number, flow, references):
                    progress = jnp.asarray(number, x.dtype) / max(steps - 1, 1)
                    temperature = 3.0 * (0.1 / 3.0) ** progress
                    shrink = 0.1 * (1 - progress) + 0.005 * progress
                    stride = 0.3 + 0.2 * jnp.cos(jnp.pi * progress)
                    own, image, wrong, length, radius, velocity, steep = flow

                    shorter = jnp.minimum(radius, length) * (1 - shrink)
                    radius = jnp.where(wrong, shorter, radius * (1 + shrink))
                    radius = jnp.minimum(radius, own.norm * (1 - shrink / 2))

                    def lead(z):
                        if ranked:
                            scores = model.ranks(z, references, y, SHARP * temperature)
                        else:
                            scores = model.soft_votes(z, references, temperature)
                        return judgement.margin_loss(model, scores, y).sum()

                    gradient = jax.grad(lead)(image)
                    velocity = _direction(gradient) + (MOMENTUM * velocity if norm == "linf" else 0.0)
                    image = balls.step(balls.ball(norm, radius), x, image, velocity, -stride * radius)

                    wrong, length = fooled(image), measure(image - x)
                    better = wrong & (length < own.norm)
                    own = Best(where(better, image, own.image), jnp.where(better, length, own.norm))
                    steep |= judgement.steep(gradient)
                    return Flow(own, image, wrong, length, radius, velocity, steep)

                def period(flow, first):
                    references = model.references(flow.image, count)
                    last = jnp.minimum(first + refresh, steps)
                    once = functools.partial(step, references=references)
                    return lax.fori_loop(first, last, once, flow), None

                flow, _ = lax.scan(period, flow, jnp.arange(0, steps, refresh))
                shorter = flow.own.norm < best.norm
                image = where(shorter, flow.own.image, best.image)
                return (Best(image, jnp.minimum(flow.own.norm, best.norm)), flow.steep), None

            noisy, rivals = _shares(starts)
            others = jnp.moveaxis(model.rivals(x, y, max(1, rivals)), 1, 0)
            others, outside = lax.map(lambda image: bisect(fooled, x, image), others)
            reach = jax.vmap(lambda image: measure(image - x))(others)
            nearest = Best(*nearest_of(others, jnp.where(outside, reach, jnp.inf)))
            reach = jnp.maximum(reach, LEAST * measure(jnp.ones_like(x[:1]))[0])
            near = reach.min(0)

            def noise(number):
                sample = balls.ball(norm, 1.0).sample
                draw = jax.vmap(lambda k: sample(jax.random.fold_in(k, number), (1, *x.shape[1:])))
                return jnp.clip(x + balls.over(near, x.shape) * draw(keys)[:, 0], 0.0, 1.0)

            no = jnp.zeros(len(x), bool)
            every = [Start(image, near / 2, no, False) for image in (x, *map(noise, range(noisy)))]
            every += [Start(others[i], reach[i], outside[i], False) for i in range(rivals)]
            every += [Start(x, near, no, True)] * (len(every) < starts)
            together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *every)
            (best, steep), _ = lax.scan(descend, (nearest, no), together)
            return bisect(fooled, x, best.image)[0], steep  # the last steps are not as fine

        tile = batches.batch_size(model, x, count)
        image, steep = in_tiles(batch, tile)(jnp.arange(len(x)), x, y)
        halved = max(1, _shares(starts)[1]) + 1
        forwards = starts * (steps + -(-steps // refresh)) + halved * BISECTIONS + 1
        counts = steps * starts, forwards
        return judgement.judge(model, x, y, image, norm, *counts, no_gradient=~steep)


def minimum_norm(
    key: Array,
    model: Scores,
    x: GivenImages,
    y: GivenLabels,
    *,
    norm: balls.Norm = "l2",
    steps: int = 40,
    starts: int = 8,
    refresh: int = 20,
) -> Found:
    """`MinimumNorm`: the smallest perturbation that changes the vote, as far as we can find it.

    Raises ValueError for images outside [0, 1], labels out of range and numbers that are too small.
    """
    return MinimumNorm(steps, starts, refresh)(key, model, x, y, norm=norm)


def _shares(starts: int) -> tuple[int, int]:
    """How many starts are noise and how many rivals, beside the image and the best of all these."""
    noise = (starts - 1) // 3
    return noise, max(0, starts - 2 - noise)


class Best(NamedTuple):
    """The least perturbed image that fools, and its norm: inf where there is none yet."""

    image: Images
    norm: Float[Array, " batch"]


class Start(NamedTuple):
    """Where a run starts, and in which ball."""

    image: Images
    radius: Float[Array, " batch"]
    wrong: Bool[Array, " batch"]
    """Whether the image is known to fool."""
    again: bool
    """Whether it starts from the best of the runs before instead."""


class Flow(NamedTuple):
    """A run on its way."""

    own: Best
    image: Images
    wrong: Bool[Array, " batch"]
    length: Float[Array, " batch"]
    radius: Float[Array, " batch"]
    velocity: Images
    steep: Bool[Array, " batch"]


def _direction(gradient: Images) -> Images:
    """The gradient by the sum of its magnitudes; none of what is NaN."""
    gradient = jnp.where(jnp.isnan(gradient), 0.0, gradient)
    size = jnp.abs(gradient).max(range(1, gradient.ndim), keepdims=True)
    gradient = gradient / jnp.where(size > 0, size, 1.0)  # of which the sum is a number
    total = jnp.abs(gradient).sum(range(1, gradient.ndim), keepdims=True)
    return gradient / jnp.where(total > 0, total, 1.0)
