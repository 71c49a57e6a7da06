"""Towards a group of another class and away from one's own, as far as the vote needs it."""

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array

from knn_jax import values
from knn_jax.attacks import batches, constant_search
from knn_jax.attacks.attack import Found, MinimizationAttack
from knn_jax.classifiers import GivenImages, GivenLabels, Votes
from knn_jax.neighbors import in_tiles

SLACK = 1e-5  # of squared distance by which a guide is to be beyond the k-th neighbour


@values.value
class Hinged(MinimizationAttack):
    """Brings rows of another class among the k nearest and drives those of class y out, in L2.

    This is the later attack of Sitawarin & Wagner (2020). RMSprop minimises |image - x|^2 + constant *
    (sum of max(0, d^2 - r^2) over the guides of the nearest other class + sum of max(0, r^2 - d^2) over
    those of class y). Here d is the distance of a guide to the image in features, r that of the image's
    k-th neighbour, and both terms are summed over layers. Guides and r are those of the current image,
    retrieved anew every `refresh` steps, when the hard vote is asked too. Each round starts anew with
    noise and another constant; after each round that fools, the next keeps fewer guides, at last the
    (k + 1) / 2 nearest of each class.

    The first start is x itself; the others are the nearest rows of other classes, by features (in the
    authors' code by pixels), and the best image of all starts is returned.
    """

    guides: int = 150
    """Number of rows that the distances are taken to, half of class y and half of the nearest other
    class; an even number."""
    constant: float = 0.1
    """Weight of the distances to the guides in the first round."""
    learning_rate: float = 0.1
    """Learning rate of RMSprop, in units of the tanh box."""
    noise: float = 0.01
    """Standard deviation of the noise added to the start of each round, in units of the tanh box."""
    steps: int = 1000
    """Gradient steps in each round."""
    rounds: int = 10
    """Rounds of the search for the constant, from each start."""
    refresh: int = 200
    """Steps between two retrievals of the guides, when the hard vote is asked too."""
    starts: int = 1
    """Number of starts: the image itself, and beyond 1 the nearest rows of other classes."""

    norms = ("l2",)
    needs = Votes
    cites = "Sitawarin & Wagner 2020, arXiv:2003.06559"

    def __post_init__(self):
        values.at_least(1, steps=self.steps, rounds=self.rounds)
        values.at_least(1, refresh=self.refresh, starts=self.starts)
        values.above(0, constant=self.constant, learning_rate=self.learning_rate)
        values.at_least(0, noise=self.noise)
        if self.guides < 2 or self.guides % 2:
            raise ValueError(f"guides={self.guides}: give an even number from 2 on")

    def search(self, key, model, source, x, y, norm):
        """The least perturbation of all starts and rounds."""
        steps, rounds, refresh, starts = self.steps, self.rounds, self.refresh, self.starts
        half = min(self.guides // 2, len(model.labels))
        least = min(half, (model.k + 1) // 2)
        # As PyTorch has it.
        optimizer = optax.rmsprop(self.learning_rate, decay=0.99, eps_in_sqrt=False)

        def batch(place, x, y):
            keys = batches.keys(key, place)

            def from_start(best, start):
                first, number = start

                def noisy(key, round_):
                    key = jax.random.fold_in(jax.random.fold_in(key, number), round_)
                    return self.noise * jax.random.normal(key, x.shape[1:], x.dtype)

                def run(round_, bracket):
                    fewer = (half - least) * bracket.fooled // max(1, rounds - 1)
                    nearest = jnp.arange(half)[None] < (half - fewer)[:, None]

                    def period(carry, begin):
                        best, z, state = carry
                        near = model.guides(constant_search.to_box(z), y, half)
                        mask = near.there & nearest[:, None]
                        sign = jnp.array([[[-1.0], [1.0]]])  # class y is driven out, the other drawn in

                        def penalty(image):
                            total = jnp.zeros(len(x), x.dtype)
                            squared = model.squared_distances(image, near.features)
                            for d, r in zip(squared, near.reach, strict=True):
                                each = jax.nn.relu(sign * (d - jnp.square(r)[:, None, None]) + SLACK)
                                total += jnp.where(mask, each, 0).sum((1, 2))
                            return total

                        def step(_, carry):
                            *carry, steep = carry
                            after = constant_search.step(
                                optimizer, penalty, x, bracket.constant, *carry
                            )
                            return after.z, after.state, steep | after.steep

                        end = jnp.minimum(begin + refresh, steps)
                        z, state, steep = lax.fori_loop(begin, end, step, (z, state, best.steep))
                        image = constant_search.to_box(z)
                        best = constant_search.keep(best, x, image, ~model.right(image, y), steep)
                        return (best, z, state), None

                    z = constant_search.from_box(first) + jax.vmap(noisy, (0, None))(keys, round_)
                    carry = constant_search.none_found(x), z, optimizer.init(z)
                    return lax.scan(period, carry, jnp.arange(0, steps, refresh))[0][0]

                found = constant_search.search(
                    x, run, constant=self.constant, rounds=rounds, decades=True
                )
                return constant_search.better(best, found), None

            images = x[None]
            if starts > 1:
                rivals = model.rivals(x, y, starts - 1)
                images = jnp.concatenate([images, jnp.moveaxis(rivals, 1, 0)])
            nothing = constant_search.none_found(x)
            return lax.scan(from_start, nothing, (images, jnp.arange(starts)))[0]

        held = jax.eval_shape(lambda m, x, y: m.guides(x, y, half), model, x[:1], y[:1])
        best = in_tiles(batch, batches.max_batch(held))(jnp.arange(len(x)), x, y)
        periods = -(-steps // refresh)
        forwards = (2 * periods * rounds * starts) + (starts > 1)
        return constant_search.judge(model, x, y, best, steps * rounds * starts, forwards)


def hinged(
    key: Array,
    model: Votes,
    x: GivenImages,
    y: GivenLabels,
    *,
    guides: int = 150,
    constant: float = 0.1,
    learning_rate: float = 0.1,
    noise: float = 0.01,
    steps: int = 1000,
    rounds: int = 10,
    refresh: int = 200,
    starts: int = 1,
) -> Found:
    """`Hinged`: rows of another class come among the k nearest and those of class y leave, in L2.

    Raises ValueError for images outside [0, 1], labels out of range and numbers that are too small.
    """
    made = Hinged(guides, constant, learning_rate, noise, steps, rounds, refresh, starts)
    return made(key, model, x, y)
