"""Towards the representations of a group of another class."""

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


@values.value
class Guided(MinimizationAttack):
    """Moves the features towards those of the nearest group of another class, in L2.

    This is the attack behind the figures of Sitawarin & Wagner 2019 (appendix A); the defaults are
    their settings on MNIST. Its authors withdrew those figures, because it stops far from the boundary;
    `Hinged` comes closer.

    Adam minimises |image - x|^2 + constant * sum over guides of |f(image) - f(guide)|^2 (the mean over
    layers) in a tanh box, from x anew in each round of the search for the constant. The guides are
    rows of the other class whose rows are nearest to the clean x; only their mean has a gradient. The
    hard vote is asked once a round, of its last image. Unlike in the authors' code each example is
    attacked by itself: no round ends early because the loss of the batch stalls, and the last round is
    a step of the search like the others.
    """

    guides: int = 100
    """Number of rows of another class that the features move to; a smaller class gives all its rows.
    A small k needs few: 1 is enough for a 1-NN."""
    constant: float = 1e-3
    """Weight of the distance to the guides in the first round. Sitawarin & Wagner took 0.1 on their
    robust networks."""
    learning_rate: float = 0.1
    """Learning rate of Adam, in units of the tanh box. Sitawarin & Wagner took 0.01 on CIFAR-10."""
    steps: int = 500
    """Gradient steps in each round. Sitawarin & Wagner took 1000 on their robust networks."""
    rounds: int = 10
    """Rounds of the search for the constant."""

    norms = ("l2",)
    needs = Votes
    cites = "Sitawarin & Wagner 2019, arXiv:1906.09525, appendix A"

    def __post_init__(self):
        values.at_least(1, guides=self.guides, steps=self.steps, rounds=self.rounds)
        values.above(0, constant=self.constant, learning_rate=self.learning_rate)

    def search(self, key, model, source, x, y, norm):
        """The least perturbation of the rounds."""
        guides = min(self.guides, len(model.labels))
        optimizer = optax.adam(self.learning_rate)

        def batch(x, y):
            near = model.guides(x, y, guides)
            mask = near.there[:, 1:, :, None]
            count = mask.sum((1, 2, 3)).astype(x.dtype)

            def mean(features):
                total = jnp.where(mask, features[:, 1:], 0).sum(2, keepdims=True)
                return total / count[:, None, None, None]

            means = tuple(map(mean, near.features))

            def penalty(image):
                squared = model.squared_distances(image, means)
                return count * sum(d[:, 0, 0] for d in squared) / len(squared)

            def run(_, bracket):
                def step(_, carry):
                    *carry, steep = carry
                    after = constant_search.step(optimizer, penalty, x, bracket.constant, *carry)
                    return after.z, after.state, steep | after.steep

                z, nothing = constant_search.from_box(x), constant_search.none_found(x)
                carry = z, optimizer.init(z), nothing.steep
                z, _, steep = lax.fori_loop(0, self.steps, step, carry)
                image = constant_search.to_box(z)
                return constant_search.keep(nothing, x, image, ~model.right(image, y), steep)

            return constant_search.search(x, run, constant=self.constant, rounds=self.rounds)

        held = jax.eval_shape(lambda m, x, y: m.guides(x, y, guides), model, x[:1], y[:1])
        best = in_tiles(batch, batches.max_batch(held))(x, y)
        return constant_search.judge(model, x, y, best, self.steps * self.rounds, self.rounds + 1)


def guided(
    key: Array,
    model: Votes,
    x: GivenImages,
    y: GivenLabels,
    *,
    guides: int = 100,
    constant: float = 1e-3,
    learning_rate: float = 0.1,
    steps: int = 500,
    rounds: int = 10,
) -> Found:
    """`Guided`: towards the features of the nearest group of another class. `key` is not drawn from.

    Raises ValueError for images outside [0, 1], labels out of range and numbers that are too small.
    """
    return Guided(guides, constant, learning_rate, steps, rounds)(key, model, x, y)
