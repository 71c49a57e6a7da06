"""The smallest perturbation that changes the vote."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from knn_jax import balls, values
from knn_jax.attacks import attack, batches, judgement
from knn_jax.attacks.attack import Found, Images, Labels, MinimizationAttack
from knn_jax.classifiers import Scores, Votes
from knn_jax.neighbors import in_tiles

BEYOND = 10  # references of each class beyond the half of k, the nearest that may step in
LEAST = 0.01  # radius at first, in widths of the box: a row equal to x that is outvoted is at none
SHARP = 0.1  # how much colder than soft votes ranks are


@values.value
class MinimumNorm(MinimizationAttack):
    """Gradient descent in a ball whose radius follows the decision (our strongest attack).

    Normalised gradient steps in a ball that shrinks while the hard vote is fooled and grows while it is
    not (decoupled direction and norm, Rony et al. 2019). The gradient is that of the margin of class y
    over the rows nearest to the current image of every class, at a falling temperature: by the ranks of
    rows where rows vote (`neighbors.ranks`), else by soft votes. The starts are the image itself, for a
    third of them the image with noise, then its nearest rows of other classes, pulled back to the
    boundary by bisection, and at last the best of all these.
    """

    steps: int = 100
    """Gradient steps from each start."""
    starts: int = 4
    """Starts: the image, the image with noise, rows of other classes, and the best of these."""
    refresh: int = 20
    """Steps between two retrievals of the references."""

    baseline = False
    primary = True
    cites = "after Rony et al. 2019, Decoupling Direction and Norm, arXiv:1811.09600"

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

            nothing = x, jnp.full(len(x), jnp.inf, x.dtype)

            def fooled(image):
                return ~model.right(image, y)

            def descend(best, start):
                """One run from `start` (image, radius); the best (image, norm) of it and of `best`, and
                whether there ever was a gradient."""

                def keep(best, image):
                    length = measure(image - x)
                    wrong = fooled(image)
                    better = wrong & (length < best[1])
                    best = where(better, image, best[0]), jnp.where(better, length, best[1])
                    return best, wrong, length

                def step(number, carry, references):
                    best, image, radius, steep = carry
                    progress = jnp.asarray(number, x.dtype) / max(steps - 1, 1)
                    temperature = 3.0 * (0.1 / 3.0) ** progress
                    shrink = 0.1 * (1 - progress) + 0.005 * progress
                    stride = 0.3 + 0.2 * jnp.cos(jnp.pi * progress)

                    best, wrong, length = keep(best, image)
                    shorter = jnp.minimum(radius, length) * (1 - shrink)
                    radius = jnp.where(wrong, shorter, radius * (1 + shrink))
                    radius = jnp.minimum(radius, best[1] * (1 - shrink / 2))

                    def lead(z):
                        if ranked:
                            scores = model.ranks(z, references, y, SHARP * temperature)
                        else:
                            scores = model.soft_votes(z, references, temperature)
                        return judgement.margin_loss(model, scores, y).sum()

                    ball, gradient = balls.ball(norm, radius), jax.grad(lead)(image)
                    image = balls.step(ball, x, image, gradient, -stride * radius)
                    return best, image, radius, steep | judgement.steep(gradient)

                def period(carry, first):
                    references = model.references(carry[1], count)
                    last = jnp.minimum(first + refresh, steps)
                    body = functools.partial(step, references=references)
                    return lax.fori_loop(first, last, body, carry), None

                best, steep = best
                carry = (
                    nothing,
                    *start,
                    steep,
                )  # its own best: another start's would cut this one short
                (own, image, _, steep), _ = lax.scan(period, carry, jnp.arange(0, steps, refresh))
                own, _, _ = keep(own, image)
                shorter = own[1] < best[1]
                best = where(shorter, own[0], best[0]), jnp.minimum(own[1], best[1])
                return (best, steep), None

            def halve(image):
                return attack.bisect(fooled, x, image)

            noisy, rivals = _shares(starts)
            others = jnp.moveaxis(model.rivals(x, y, max(1, rivals)), 1, 0)
            others = lax.map(halve, others)
            width = measure(jnp.ones_like(x[:1]))[0]
            reach = jax.vmap(lambda image: jnp.maximum(measure(image - x), LEAST * width))(others)
            near = reach.min(0)

            def noise(number):
                sample = balls.ball(norm, 1.0).sample
                draw = jax.vmap(lambda k: sample(jax.random.fold_in(k, number), (1, *x.shape[1:])))
                return jnp.clip(x + balls.over(near, x.shape) * draw(keys)[:, 0], 0.0, 1.0)

            images = [x, *map(noise, range(noisy)), *others[:rivals]]
            radii = [near / 2] * (1 + noisy) + [*reach[:rivals]]
            found = nothing, jnp.zeros(len(x), bool)
            found, _ = lax.scan(descend, found, (jnp.stack(images), jnp.stack(radii)))
            if len(images) < starts:
                best, _ = found
                found, _ = descend(found, (best[0], jnp.minimum(best[1], near)))
            (image, _), steep = found
            return halve(image), steep

        tile = batches.batch_size(model, x, count)
        image, steep = in_tiles(batch, tile)(jnp.arange(len(x)), x, y)
        halved = max(1, _shares(starts)[1]) + 1
        forwards = starts * (steps + 1 + -(-steps // refresh)) + halved * attack.BISECTIONS + 1
        counts = steps * starts, forwards
        return judgement.judge(model, x, y, image, norm, *counts, no_gradient=~steep)


def minimum_norm(
    key: Array,
    model: Scores,
    x: Images,
    y: Labels,
    *,
    norm: balls.Norm = "l2",
    steps: int = 100,
    starts: int = 4,
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
