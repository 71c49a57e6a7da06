"""Least squared distance plus cross-entropy towards another class, by a quasi-Newton method."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from knn_jax import balls, losses, values
from knn_jax.attacks import batches, checks, constant_search, judgement
from knn_jax.attacks.attack import Found, MinimizationAttack
from knn_jax.attacks.bisection import BISECTIONS, bisect
from knn_jax.attacks.deepfool import DeepFool
from knn_jax.classifiers import GivenImages, GivenLabels, Images, Scores, Surrogate
from knn_jax.neighbors import in_tiles

DECREASE = 1e-4  # share of the decrease that the slope promises which a step must bring (Armijo)


class Descent(NamedTuple):
    """The state of each example, and the step it tries next: `size` times `direction`."""

    z: Images
    value: Float[Array, " batch"]
    gradient: Images
    direction: Images
    size: Float[Array, " batch"]
    memory: optax.OptState


@values.value
class LBFGS(MinimizationAttack):
    """Minimises |image - x|^2 + constant * cross-entropy towards another class by L-BFGS, in [0, 1].

    Szegedy et al. 2014 and Tabacof & Valle 2016 weight the distance instead. The other class is the one
    that `DeepFool` reaches (of a model that names several classes, the likeliest there and the mean
    over them), and the cross-entropy is of y and that class alone, since any other will do too. (On an
    all-convolutional network of scikit-learn's digits, 97 images, the mean norm is 0.417, and none is
    larger than DeepFool's. With the cross-entropy of all classes the mean is 0.428 and 11% are larger,
    towards the likeliest class at x it is 0.487 and 38% are.) Towards given targets the cross-entropy
    is of all classes.

    The scores are the soft votes over the references of x, retrieved once. Each round searches for a
    better constant of each image. What fools, whichever its class, is pulled back to the boundary by
    bisection.

    The image is clip(z) and the distance that of z itself, so that nothing is gained beyond the box. On
    the network of Sitawarin & Wagner 2019 (20 MNIST images) that finds a mean norm of 1.165, and a
    projection after each step 1.166. A tanh box finds 1.233, and 2.030 where its starts are as near to
    black and white as those of `CarliniWagner`; SciPy's L-BFGS-B, 150 iterations in 12 rounds, 1.166.
    """

    constant: float = 1.0
    """Weight of the cross-entropy in the first round."""
    steps: int = 50
    """Gradients in each round, some of which are of steps that prove too long."""
    rounds: int = 8
    """Rounds of the search for the constant."""
    temperature: float = 0.1
    """Temperature of the soft votes."""

    norms = ("l2",)
    follows = Surrogate
    adaptive = True
    cites = "Szegedy et al. 2014, arXiv:1312.6199; Tabacof & Valle 2016, arXiv:1510.05328"

    def __post_init__(self):
        values.at_least(1, steps=self.steps, rounds=self.rounds)
        values.above(0, constant=self.constant, temperature=self.temperature)

    def __call__(
        self,
        key: Array,
        model: PyTree,
        x: GivenImages,
        y: GivenLabels,
        *,
        norm: balls.Norm | None = None,
        source: PyTree = None,
        target: GivenLabels | None = None,
    ) -> Found:
        """Attacks the images x of classes y, where given towards the classes `target`.

        Raises ValueError as every attack, and for targets out of range.
        """
        if target is None:
            return super().__call__(key, model, x, y, norm=norm, source=source)
        source, x, y, norm = self._admitted(model, source, x, y, norm)
        target = checks.check(model, x, target)[1]
        return _towards(norm, values.arrays(self), key, model, source, x, y, target)

    def search(self, key, model, source, x, y, norm, target=None):
        """The least perturbation of the rounds."""
        count, walk = batches.references(source), None
        if target is None:
            walk = DeepFool(temperature=self.temperature).search(key, model, source, x, y, norm)

        def batch(x, y, target, reached):
            references = source.references(x, count)

            def scores(image):
                return source.soft_votes(image, references, self.temperature)

            if target is None:
                others = scores(reached)
                label = jax.nn.one_hot(y, others.shape[1], dtype=bool)
                chosen = lax.top_k(jnp.where(label, -jnp.inf, others), model.top)[1]
                entropy = functools.partial(_between, y, chosen)
            else:
                entropy = functools.partial(losses.cross_entropy, y=target)

            def fooled(image):
                return ~model.right(image, y)

            def run(_, bracket):
                def loss(z):
                    squared = jnp.sum(jnp.square(z - x), tuple(range(1, x.ndim)))
                    return squared + bracket.constant * entropy(scores(jnp.clip(z, 0.0, 1.0)))

                z, steep = descend(loss, x, self.steps)
                image = jnp.clip(z, 0.0, 1.0)
                nearest, found = bisect(fooled, x, image)
                return constant_search.keep(constant_search.none_found(x), x, nearest, found, steep)

            constant = self.constant
            return constant_search.search(x, run, constant=constant, rounds=self.rounds, decades=True)

        reached = None if walk is None else walk.image
        best = in_tiles(batch, batches.batch_size(source, x, count))(x, y, target, reached)
        gradients = self.steps * self.rounds
        forwards = 1 + self.rounds * BISECTIONS
        if walk is not None:
            gradients, forwards = gradients + walk.gradients, forwards + 1 + walk.forwards
        return constant_search.judge(model, x, y, best, gradients, forwards)


@functools.partial(jax.jit, static_argnums=0)
def _towards(norm, attack, key, model, source, x, y, target):
    return attack.search(key, model, source, x, y, norm, target)


def lbfgs(
    key: Array,
    model: Scores,
    x: GivenImages,
    y: GivenLabels,
    *,
    target: GivenLabels | None = None,
    constant: float = 1.0,
    steps: int = 50,
    rounds: int = 8,
    temperature: float = 0.1,
    source: Surrogate | None = None,
) -> Found:
    """`LBFGS`: least squared distance plus cross-entropy towards `target`, or the class that DeepFool
    reaches. `key` is not drawn from.

    Where a `source` is given, its soft votes and references stand in for the model's own, which is only
    asked for its decisions.

    Raises ValueError for images outside [0, 1], labels and targets out of range and numbers that are
    not above 0.
    """
    made = LBFGS(constant, steps, rounds, temperature)
    return made(key, model, x, y, source=source, target=target)


def _between(y, others, scores):
    """The cross-entropy between y and one other class, the mean over `others`."""
    lead = jnp.take_along_axis(scores, y[:, None], 1) - jnp.take_along_axis(scores, others, 1)
    return jax.nn.softplus(lead).mean(1)


def descend(
    loss: Callable[[Images], Float[Array, " batch"]], z: Images, steps: int
) -> tuple[Images, Bool[Array, " batch"]]:
    """Minimises `loss` of each example by itself, from z on, with `steps` gradients of the batch.

    Returns also where there was a gradient at z: without one an example stays.

    Each example tries its own step with every gradient: to the quasi-Newton point, or a shorter step in
    that direction if the last one decreased the loss too little. (optax's line search within `vmap`
    waits for the longest of the batch and computes both branches of each choice: six times as slow.)
    """
    optimizer = optax.scale_by_lbfgs()
    pixels = tuple(range(1, z.ndim))

    def slopes(gradient, direction):
        return jnp.sum(gradient * direction, pixels)

    def arrive(z, memory):
        """At z, with the next direction: against the gradient where the quasi-Newton one ascends."""

        def total(z):
            each = loss(z)
            return each.sum(), each

        gradient, value = jax.grad(total, has_aux=True)(z)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes types
            found = jax.vmap(optimizer.update)(gradient, memory, z)
        direction, memory = jax.tree.map(lambda a, b: a.astype(b.dtype), found, (gradient, memory))
        descends = slopes(gradient, direction) > 0
        direction = -jnp.where(balls.over(descends, z.shape), direction, gradient)
        return Descent(z, value, gradient, direction, jnp.ones_like(value), memory)

    def step(_, here):
        slope = here.size * slopes(here.gradient, here.direction)
        moved = arrive(here.z + balls.over(here.size, z.shape) * here.direction, here.memory)
        rise = moved.value - here.value
        parabola = -slope / 2 / jnp.maximum(rise - slope, 1e-20)  # its lowest point, in steps
        shorter = here._replace(size=here.size * jnp.clip(parabola, 0.1, 0.5))
        better = rise <= DECREASE * slope
        return jax.tree.map(lambda a, b: jnp.where(balls.over(better, a.shape), a, b), moved, shorter)

    start = arrive(z, jax.vmap(optimizer.init)(z))
    return lax.fori_loop(1, steps, step, start).z, judgement.steep(start.gradient)
