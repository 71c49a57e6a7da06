"""Carlini and Wagner's attack on logits, or on soft votes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array

from knn_jax import values
from knn_jax.attacks import batches, constant_search, judgement
from knn_jax.attacks.attack import Found, MinimizationAttack
from knn_jax.classifiers import GivenImages, GivenLabels, Images, Network, Scores, check_images, network
from knn_jax.neighbors import in_tiles


@values.value
class CarliniWagner(MinimizationAttack):
    """Searches the smallest L2 perturbation that changes the largest of a network's logits.

    Adam minimises |image - x|^2 + constant * max(0, z_y - max of z_c over c != y + confidence) in a
    tanh box (Carlini & Wagner 2017, f6), z the logits, from x anew in each round of the search for the
    constant. Every image on the way is a candidate, as in their code; no round ends early. Where the
    classifier names several classes the maximum is the least of as many. The defaults are those of
    Sitawarin & Wagner 2019 (arXiv:1906.09525) for their networks without kNN.

    Of a classifier by neighbours z are the soft votes over the references of x, retrieved once. They
    only approximate its decision, so that the hard vote is asked at every step: an image is a candidate
    where it is wrong, and where it is right the margin counts below 0 too.
    """

    constant: float = 10.0
    """Weight of the margin in the first round."""
    learning_rate: float = 0.1
    """Learning rate of Adam, in units of the tanh box."""
    steps: int = 500
    """Gradient steps in each round."""
    rounds: int = 10
    """Rounds of the search for the constant."""
    confidence: float = 0.0
    """Margin by which another class is to lead (kappa in Carlini & Wagner 2017), in units of the logits
    or of soft votes; a hard vote that is wrong is a candidate without it."""
    temperature: float = 0.1
    """Temperature of the soft votes of a classifier by neighbours; a network's logits have none."""

    norms = ("l2",)
    cites = "Carlini & Wagner 2017, arXiv:1608.04644"

    def __post_init__(self):
        values.at_least(1, steps=self.steps, rounds=self.rounds)
        values.above(0, constant=self.constant, learning_rate=self.learning_rate)
        values.above(0, temperature=self.temperature)
        values.at_least(0, confidence=self.confidence)

    def search(self, key, model, source, x, y, norm):
        """The least perturbation of all steps."""
        optimizer, count = optax.adam(self.learning_rate), batches.references(model)
        exact = isinstance(model, Network)  # which decides by the very scores that are differentiated

        def batch(x, y):
            references = model.references(x, count)

            def lead(image):
                scores = model.soft_votes(image, references, self.temperature)
                return judgement.margin_loss(model, scores, y) + self.confidence

            def run(_, bracket):
                def step(_, carry):
                    best, z, state = carry
                    wrong = None if exact else ~model.right(constant_search.to_box(z), y)

                    def penalty(image):
                        margin = lead(image)
                        hinge = jax.nn.relu(margin)
                        return hinge if wrong is None else jnp.where(wrong, hinge, margin)

                    after = constant_search.step(optimizer, penalty, x, bracket.constant, z, state)
                    fooled = after.penalty <= 0 if wrong is None else wrong
                    best = constant_search.keep(best, x, after.image, fooled, after.steep)
                    return best, after.z, after.state

                z = constant_search.from_box(x)
                carry = constant_search.none_found(x), z, optimizer.init(z)
                return lax.fori_loop(0, self.steps, step, carry)[0]

            return constant_search.search(x, run, constant=self.constant, rounds=self.rounds)

        best = in_tiles(batch, batches.batch_size(model, x, count))(x, y)
        gradients = self.steps * self.rounds
        return constant_search.judge(model, x, y, best, gradients, 0 if exact else 1 + gradients)


def carlini_wagner(
    key: Array,
    logits: Callable[[Images], Array] | Scores,
    x: GivenImages,
    y: GivenLabels,
    *,
    constant: float = 10.0,
    learning_rate: float = 0.1,
    steps: int = 500,
    rounds: int = 10,
    confidence: float = 0.0,
    temperature: float = 0.1,
) -> Found:
    """`CarliniWagner` on a network's logits, a function of images, or on any classifier.

    A function with parameters is given as `jax.tree_util.Partial(function, parameters)`. `key` is not
    drawn from.

    Raises ValueError for images outside [0, 1], labels out of range and numbers that are too small.
    """
    given = isinstance(logits, Scores)
    model = logits if given else network(logits, check_images(x))
    made = CarliniWagner(constant, learning_rate, steps, rounds, confidence, temperature)
    return made(key, model, x, y)
