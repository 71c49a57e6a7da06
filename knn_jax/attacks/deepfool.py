"""The nearest boundary of the scores as if they were linear, again and again."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from knn_jax import balls, values
from knn_jax.attacks import batches, judgement
from knn_jax.attacks.attack import Found, MinimizationAttack
from knn_jax.attacks.bisection import BISECTIONS, bisect
from knn_jax.classifiers import GivenImages, GivenLabels, Scores, Surrogate
from knn_jax.neighbors import in_tiles

LANES = 8  # examples that take a step at once: each computes the gradients of all candidates
GROWTH = 0.1  # least share by which the perturbation grows once the source is fooled and the model not
BEYOND = 1e-4  # how much further each step goes, as in Foolbox: none is of length 0


@values.value
class DeepFool(MinimizationAttack):
    """Steps to the nearest boundary of the linearised scores, until fooled.

    The scores are the soft votes over the references of x, retrieved once. The boundaries are those
    between y and the likeliest other classes at x; where the model names several classes, the step is
    to the boundary by which it is wrong. Each step adds |s_c - s_y| / |grad (s_c - s_y)| (dual norm) to
    the perturbation; the hard decision is asked at x + (1 + overshoot) times the perturbation, and the
    image is at last pulled back to the boundary by bisection.

    Once a given source is fooled and the model is not, the formula's steps become as short as the lead
    of the source; each then adds at least a tenth of the perturbation. (On a 10-NN of 1,400 digits with
    another network as source, 96 images, 40% were fooled within 50 steps before and all are now, at the
    norms that took 200.)

    `gradients` and `forwards` are means over the images, rounded up.
    """

    steps: int = 50
    """Linearisations for each image at most."""
    candidates: int = 10
    """Number of classes whose boundaries are considered: the image's own and the likeliest others."""
    overshoot: float = 0.02
    """Share by which the perturbation is lengthened before the hard decision is asked."""
    temperature: float = 0.1
    """Temperature of the soft votes."""

    follows = Surrogate
    adaptive = True
    cites = "Moosavi-Dezfooli, Fawzi & Frossard 2016, arXiv:1511.04599"

    def __post_init__(self):
        values.at_least(1, steps=self.steps)
        values.above(0, temperature=self.temperature)
        values.at_least(0, overshoot=self.overshoot)
        values.at_least(2, candidates=self.candidates)

    def search(self, key, model, source, x, y, norm):
        """The walk to the boundary and back."""
        count = batches.references(source)
        ball = balls.ball(norm, 0.0)
        pixels = tuple(range(2, x.ndim + 1))
        width = ball.norm(jnp.ones_like(x[:1]))[0]  # of the box

        def batch(x, y):
            references = source.references(x, count)
            scores = source.soft_votes(x, references, self.temperature)
            classes = scores.shape[1]
            label = jax.nn.one_hot(y, classes, dtype=x.dtype)
            top = model.top
            others = min(max(self.candidates - 1, top), classes - 1)
            ranked = lax.top_k(jnp.where(label > 0, -jnp.inf, scores), others)[1]
            # One row for each candidate, (candidate, batch, class).
            leads = jax.nn.one_hot(ranked.T, classes, dtype=x.dtype) - label[None]

            def step(index, image, moved):
                """From the images of some examples to their nearest boundary."""
                held = jax.tree.map(lambda leaf: leaf[index], references)
                lead = leads[:, index]
                scores, pull = jax.vjp(lambda z: source.soft_votes(z, held, self.temperature), image)
                (gradient,) = lax.map(pull, lead)  # `vmap` takes twice as long on a CPU, 8 images
                direction = jax.vmap(ball.steepest)(gradient)
                slope = jnp.sum(gradient * direction, pixels)
                # Without a slope there is no boundary.
                distance = -jnp.sum(lead * scores[None], -1)
                distance /= jnp.maximum(slope, jnp.finfo(x.dtype).tiny)
                # Below 0 where a class leads: of several that must, these have been reached.
                order = jnp.argsort(jnp.abs(distance) if top == 1 else distance, 0)
                nearest = order[top - 1 : top]
                distance = jnp.take_along_axis(distance, nearest, 0)[0]
                length = jnp.abs(distance) + BEYOND
                further = jnp.maximum(length, GROWTH * ball.norm(moved))
                length = jnp.minimum(jnp.where(distance < 0, further, length), width)
                index = balls.over(nearest, direction.shape)
                direction = jnp.take_along_axis(direction, index, 0)[0]
                return balls.over(length, x.shape) * direction, judgement.steep(direction)

            def clipped(index, moved):
                return jnp.clip(x[index] + (1 + self.overshoot) * moved, 0.0, 1.0)

            def pending(state):
                _, taken, fooled, _ = state
                return ~fooled & (taken < self.steps)

            def go(state):
                moved, taken, fooled, steep = state
                index = jnp.argsort(~pending(state))[: min(LANES, len(x))]
                walks, before = pending(state)[index], moved[index]
                added, slopes = step(index, clipped(index, before), before)
                after = jnp.where(balls.over(walks, x.shape), before + added, before)
                wrong = ~model.right(clipped(index, after), y[index])
                moved = moved.at[index].set(after)
                taken = taken.at[index].add(walks.astype(jnp.int32))
                fooled = fooled.at[index].set(wrong | fooled[index])
                return moved, taken, fooled, steep.at[index].set(steep[index] | slopes)

            def fooled(image):
                return ~model.right(image, y)

            counts, none = jnp.zeros(len(x), jnp.int32), jnp.zeros(len(x), bool)
            start = jnp.zeros_like(x), counts, fooled(x), none
            found = lax.while_loop(lambda state: jnp.any(pending(state)), go, start)
            moved, taken, done, steep = found
            image, _ = bisect(fooled, x, clipped(jnp.arange(len(x)), moved))
            return image, taken, taken * len(leads), ~steep, ~done

        tile = batches.batch_size(source, x, count)
        image, taken, gradients, *flags = in_tiles(batch, tile)(x, y)
        forwards = 2 + 2 * batches.average(taken) + BISECTIONS
        counts = batches.average(gradients), forwards
        return judgement.judge(model, x, y, image, norm, *counts, None, *flags)


def deepfool(
    key: Array,
    model: Scores,
    x: GivenImages,
    y: GivenLabels,
    *,
    norm: balls.Norm = "l2",
    steps: int = 50,
    candidates: int = 10,
    overshoot: float = 0.02,
    temperature: float = 0.1,
    source: Surrogate | None = None,
) -> Found:
    """`DeepFool`: steps to the nearest boundary of the linearised scores. `key` is not drawn from.

    Where a `source` is given, its soft votes and references stand in for the model's own, which is only
    asked for its decisions.

    Raises ValueError for images outside [0, 1], labels out of range, fewer than 2 candidates and
    numbers that are too small.
    """
    made = DeepFool(steps, candidates, overshoot, temperature)
    return made(key, model, x, y, norm=norm, source=source)
