"""Batches padded to a size that has a program: what may not change, and what is left as it is."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from victims import digits, flat

from knn_jax import attacks, classifiers, neighbors

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
QUERY, BANK = (RNG.random((count, 4), np.float32) for count in (9, 40))


def nearest(query):
    return neighbors.search(query, BANK, 2)


def test_arrays_of_a_caller_within_its_program():
    query = jax.device_put(QUERY)
    expected = nearest(query[:6])
    nearest(query)
    total = jax.jit(lambda one: one + nearest(query[:6]).distance.sum())(jnp.float32(1))
    np.testing.assert_allclose(total, 1 + expected.distance.sum(), rtol=1e-6)


def test_a_batch_that_failed_is_not_a_size():
    def program(static, others, x):
        if len(x) > 5:
            raise MemoryError
        return x

    with pytest.raises(MemoryError):
        neighbors.padded(program, None, (), jnp.ones((8, 2)))
    assert neighbors.padded(program, None, (), jnp.ones((4, 2))).shape == (4, 2)


def test_no_classifier_is_kept():
    big = jnp.ones((3, 3))
    kept = weakref.ref(big)
    model, x, _ = digits()
    model = classifiers.knn(lambda x: flat(x) * big[0, 0], model.images, model.labels, k=3)
    model.predict(x[:8])
    model.predict(x[:6])
    del model, big
    jax.clear_caches()
    gc.collect()
    assert kept() is None


def test_answers_lie_where_the_queries_do():
    device = jax.devices()[1]
    query, bank = (jax.device_put(array, device) for array in (QUERY, BANK))
    for count in (9, 6):
        near = neighbors.search(query[:count], bank, 2)
        assert near.index.devices() == {device}


ATTACKS = {
    "pgd": lambda *args: attacks.pgd(KEY, *args, eps=0.1, steps=2),
    "minimum_norm": lambda *args: attacks.minimum_norm(KEY, *args, steps=3, starts=3),
    "fgsm": lambda *args: attacks.fgsm(KEY, *args),
    "deepfool": lambda *args: attacks.deepfool(KEY, *args, steps=5),
    "lbfgs": lambda *args: attacks.lbfgs(KEY, *args, steps=5, rounds=2),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_an_attack_finds_and_counts_is_the_same(name):
    """Seven images by themselves, and where ten were attacked before."""
    model, x, y = digits()
    alone = ATTACKS[name](model, x[:7], y[:7])
    model = classifiers.knn(None, model.images, model.labels, k=3)  # a program of its own
    ATTACKS[name](model, x[:10], y[:10])
    padded = ATTACKS[name](model, x[:7], y[:7])
    for one, other in zip(jax.tree.leaves(padded), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
