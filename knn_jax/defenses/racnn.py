"""Paper 2's defense: a network that answers among retrieved neighbours, trained by local mixup."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from knn_jax.defenses.defense import STATISTICS, Batch, Defense


def racnn(net: Any, *, ce_steps: int = 1, mixup_steps: int = 5) -> Defense:
    """Cross-entropy of the answer among neighbours for `ce_steps` of training, then local mixup for
    `mixup_steps`, and so on (Zhao & Cho 2018, section 2.3).

    A batch's `others` are each image's neighbours. Local mixup asks of a point drawn uniformly from the
    convex hull of their features the same mixture of their labels. All features are computed anew and
    carry gradients, their statistics those of images and neighbours together. Each step takes a batch
    of its own, where the paper may have taken several with one; it does not say how many of
    cross-entropy.
    """

    def loss(variables, key, batch: Batch):
        return answered(functools.partial(net.apply, variables), key, batch, False, False)

    def learn(variables, key, batch):
        there = jnp.repeat(batch.there, 1 + batch.others.y.shape[1])
        apply = functools.partial(net.apply, mutable=[STATISTICS])
        moved: dict[str, Any] = {}

        def call(*arguments, **knobs):
            output, found = apply({**variables, **moved}, *arguments, **knobs)
            moved.update(found)
            return output

        return answered(call, key, batch, there, batch.there), moved

    def answered(apply, key, batch, train, train_head):
        others, count = batch.others, batch.others.y.shape[1]
        every = jnp.concatenate([batch.x[:, None], others.x], 1)
        found = apply(every.reshape(-1, *batch.x.shape[1:]), train, method="embed")
        found = found.reshape(len(batch.x), 1 + count, -1)
        query, values = found[:, 0], found[:, 1:]
        mixing = batch.step % (ce_steps + mixup_steps) >= ce_steps
        alpha = jnp.where(mixing, simplex(key, others.y.shape), apply(query, values, method="attend"))
        logits = apply(alpha, values, train_head, method="classify")
        mixed = jnp.einsum("bk,bkc->bc", alpha, jax.nn.one_hot(others.y, net.classes))
        target = jnp.where(mixing, mixed, jax.nn.one_hot(batch.y, net.classes))
        return optax.softmax_cross_entropy(logits, target)

    return Defense(net.init, loss, None, learn)


def simplex(key: Key[Array, ""], shape: tuple[int, int]) -> Float[Array, "batch k"]:
    """Coefficients uniform on the simplex of each row: the gaps between k - 1 sorted uniform numbers
    (Kraemer's algorithm, Smith & Tromble 2004, section 4.2)."""
    rows, k = shape
    inner = jnp.sort(jax.random.uniform(key, (rows, k - 1)))
    return jnp.diff(inner, prepend=jnp.zeros((rows, 1)), append=jnp.ones((rows, 1)))
