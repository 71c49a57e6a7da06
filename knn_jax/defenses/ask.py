"""Paper 4's defense: the ASK loss minimised where it is largest, beside adversarial training."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from knn_jax import balls, losses
from knn_jax.defenses.generators import Generator, ascend


def ask(
    generator: Generator,
    layers: Sequence[str],
    *,
    eps: float,
    steps: int,
    step_size: float,
    weight: float = 1.0,
    temperature: float = 0.1,
) -> Generator:
    """The generator's loss plus `weight` times the ASK loss of all layers (Wang et al. 2022, eq. 6).

    The ASK loss, in its `sum` form by the cosine, is taken at images that raise it in the Linf ball of
    radius eps, from uniform starts (eq. 7), over the batch's references: training images of every
    class, and those perturbed as the generator does. Its gradient goes through references too. All
    perturbing uses running statistics and leaves them. (In the authors' code nine of ten references
    had the wrong label, and the inner steps used and moved the batch's statistics.)
    """
    ball = balls.linf(eps)

    def loss(taps, held, classes, y):
        """Of the taps of images and of rows: all clean ones class by class, then all perturbed."""
        total = jnp.zeros(len(y))
        for layer in layers:
            rows = held[layer].reshape(2, classes, -1, held[layer].shape[1])
            rows = jnp.concatenate([rows[0], rows[1]], 1)
            alike = losses.similarity(taps[layer], rows, "cosine") / temperature
            there = jnp.ones((1, *alike.shape[1:]), bool)
            total += losses.adversarial_soft_neighbors(alike, y, there, "sum")
        return total

    def inputs(forward, key, batch):
        own, perturb, begin = jax.random.split(key, 3)
        classes = len(batch.others.x)
        clean, y = batch.others.x.reshape(-1, *batch.x.shape[1:]), batch.others.y.reshape(-1)
        there = jnp.ones(len(clean), bool)
        chosen = batch._replace(x=clean, clean=clean, y=y, there=there)
        perturbed = generator.inputs(forward, perturb, chosen)[-1][0]
        rows = jnp.concatenate([clean, perturbed])
        held = forward(rows)[1]
        start = batch.x + ball.sample(begin, batch.x.shape)

        def total(z):
            return loss(forward(z)[1], held, classes, batch.y)

        x = ascend(total, batch.clean, start, ball, steps, step_size)
        rows = rows, jnp.ones(len(rows), bool)
        return *generator.inputs(forward, own, batch), (x, batch.there), rows

    def both(outputs, batch):
        *others, (_, taps), (_, rows) = outputs
        own = loss(taps, rows, len(batch.others.x), batch.y)
        return generator.loss(tuple(others), batch) + weight * own

    return Generator(inputs, both)
