"""The credibility of predictions: worked by hand, and on digits and what is not like them."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from knn_jax import attacks, classifiers, measures

pytestmark = pytest.mark.usefixtures("quick")


def flat(x):
    return x.reshape(x.shape[0], -1)


def single(*values):
    """Images of one pixel."""
    return jnp.array(values, jnp.float32).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("taps", [flat, [flat, flat]], ids=["one tap", "two taps"])
def test_a_case_worked_by_hand(taps):
    """Of three neighbours 0.1 has none of class 1 and 0.85 one of class 0."""
    bank = single(0.0, 0.1, 0.2, 0.8, 0.9, 1.0), jnp.array([0, 0, 0, 1, 1, 0])
    model = classifiers.knn(taps, *bank, k=3)
    x, y = single(0.85, 0.1, 0.85, 0.1), jnp.array([0, 0, 1, 1])
    held_out = measures.calibrate(model, x, y)
    assert held_out.nonconformity.tolist() == [len(model.banks) * n for n in (0, 1, 2, 3)]
    found = measures.credibility(model, held_out, single(0.1, 0.85))
    np.testing.assert_array_equal(found.p, [[1, 0.25], [0.5, 0.75]])
    np.testing.assert_array_equal(found.prediction, [0, 1])
    np.testing.assert_array_equal(found.credibility, [1, 0.75])
    np.testing.assert_array_equal(found.confidence, [0.75, 0.5])


def test_a_tied_vote_is_the_lowest_class_with_the_credibility_of_both():
    model = classifiers.knn(flat, single(0.1, 0.5, 0.9), jnp.array([2, 1, 0]), k=2)
    held_out = measures.Calibration(jnp.array([0, 1, 1, 2]))
    found = measures.credibility(model, held_out, single(0.3))
    np.testing.assert_array_equal(found.p, [[0.25, 0.75, 0.75]])
    assert found.prediction[0] == model.predict(single(0.3))[0] == 1
    assert (found.credibility[0], found.confidence[0]) == (0.75, 0.25)


@pytest.fixture(scope="module")
def digits(quick):
    """A 25-NN of 600 digits, 500 others that calibrate it, and 500 to test it."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    images = jnp.asarray(bunch.images[order, ..., None] / 16, jnp.float32)
    labels = jnp.asarray(bunch.target[order], jnp.int32)
    model = classifiers.knn(flat, images[:600], labels[:600], k=25)
    held_out = measures.calibrate(model, images[600:1100], labels[600:1100])
    return model, held_out, images[1100:1600], labels[1100:1600]


def test_it_is_the_share_of_held_out_digits_that_conform_no_better(digits):
    model, held_out, x, _ = digits
    found = measures.credibility(model, held_out, x[:50])
    other = 25 - np.asarray(model.votes(x[:50]))
    conform = np.asarray(held_out.nonconformity) >= other[..., None]
    np.testing.assert_allclose(found.p, conform.mean(-1), rtol=1e-6)
    np.testing.assert_array_equal(found.prediction, model.predict(x[:50]))
    ranked = np.sort(conform.mean(-1))
    np.testing.assert_allclose(found.credibility, ranked[:, -1], rtol=1e-6)
    np.testing.assert_allclose(found.confidence, 1 - ranked[:, -2], rtol=1e-6, atol=1e-6)


def test_the_p_values_of_true_classes_are_uniform(digits):
    """At each value that can be taken; both sides are means of 500 digits."""
    model, held_out, x, y = digits
    p = np.asarray(measures.credibility(model, held_out, x).p)
    true = p[np.arange(500), y]
    levels = np.unique(true)
    assert len(levels) > 10
    for level in levels:
        error = np.sqrt(2 * level * (1 - level) / 500)
        assert abs((true <= level).mean() - level) <= 3 * error + 1e-6


def test_what_is_no_digit_or_adversarial_is_less_credible(digits):
    model, held_out, x, y = digits

    def mean(images):
        return measures.credibility(model, held_out, images).credibility.mean()

    clean = mean(x)
    assert mean(jax.random.uniform(jax.random.key(0), x.shape)) < 0.5 * clean
    assert mean(jnp.rot90(x, axes=(1, 2))) < 0.8 * clean
    found = attacks.pgd(jax.random.key(0), model, x[:20], y[:20], norm="l2", eps=1.0, steps=10)
    assert found.success.mean() > 0.5
    assert mean(found.image[found.success]) < 0.8 * mean(x[:20][found.success])


def test_it_works_inside_the_callers_jit(digits):
    model, held_out, x, _ = digits
    expected = measures.credibility(model, held_out, x[:5])
    for leaf, other in zip(
        jax.jit(measures.credibility)(model, held_out, x[:5]), expected, strict=True
    ):
        np.testing.assert_array_equal(leaf, other)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (single(), jnp.zeros(0, jnp.int32), "give at least one"),
        (single(3.0), jnp.array([0]), "images reach from 3"),
        (single(0.5), jnp.array([2]), "out of range of 2 classes"),
    ],
)
def test_what_calibrates_nothing_is_refused(x, y, message):
    model = classifiers.knn(flat, single(0.1, 0.9), jnp.array([0, 1]), k=1)
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(measures.calibrate)(model, x, y)
