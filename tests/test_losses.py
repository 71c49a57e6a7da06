"""Losses against numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knn_jax import balls, losses, neighbors
from knn_jax.attacks import constant_search

LEADS = np.array([0.01, 0.1, 1, 3, 10, 17, 20, 40, 80], np.float32)
SCORES = [[1, 3, 2], [5, 0, -2], [4, 4, 0], [-1, -2, -3]]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int32])
def test_margin_is_the_lead_over_the_best_other_class(dtype):
    margin = losses.margin(jnp.asarray(SCORES, dtype), jnp.array([1, 1, 0, 2]))
    np.testing.assert_array_equal(margin, [1, -5, 0, -2])
    assert margin.dtype == dtype


def test_gradient_of_the_margin_is_one_at_the_class_and_minus_one_at_its_rival():
    gradient = jax.grad(lambda s: losses.margin(s, jnp.array([1, 1])).sum())
    scores = jnp.asarray(SCORES[:2], jnp.float32)
    np.testing.assert_array_equal(gradient(scores), [[0, 1, -1], [-1, 1, 0]])


def test_cross_entropy_is_minus_the_log_of_the_class_probability():
    """Logits log 1 and log 3 are probabilities 1/4 and 3/4."""
    logits = jnp.log(jnp.array([[1.0, 3.0], [1.0, 3.0], [2.0, 2.0]]))
    loss = losses.cross_entropy(logits, jnp.array([0, 1, 1]))
    np.testing.assert_allclose(loss, np.log([4, 4 / 3, 2]), rtol=1e-6)


def lead_of(first):
    """Scores of three classes, the first ahead of the others by a number."""
    return lambda lead: jnp.stack([first + lead, 0 * lead + first, 0 * lead + first - 1])[None]


def asked(form):
    def loss(lead):
        similarity = jnp.stack([lead, lead, lead, 0 * lead, 0 * lead - 1, 0 * lead]).reshape(1, 2, 3)
        return losses.adversarial_soft_neighbors(
            similarity, jnp.array([0]), jnp.ones((1, 2, 3), bool), form
        )[0]

    return loss


def neighbour_at(lead):
    """Two of a class, and one whose squared distance from the first is larger by a number."""
    place = jnp.stack([0 * lead, 0 * lead + 0.5, jnp.sqrt(0.25 + lead)])[:, None]
    return losses.soft_nearest_neighbors(place, jnp.array([0, 0, 1]), jnp.ones(3, bool), 1.0)[0]


def potential(same, decay=0.5):
    return lambda lead: losses.potential(
        lead / decay, jnp.array(same), 10, decay=decay, near=0.007 / decay
    )


SATURATING = {
    "cross_entropy": lambda lead: losses.cross_entropy(lead_of(3.0)(lead), jnp.array([0]))[0],
    "cross_entropy of another class": lambda lead: losses.cross_entropy(
        lead_of(3.0)(-lead), jnp.array([0])
    )[0],
    "ASK, mean": asked("mean"),
    "ASK, sum": asked("sum"),
    "soft_nearest_neighbors": neighbour_at,
    "sigmoid": losses.sigmoid,
    "sigmoid below 0": lambda lead: losses.sigmoid(-lead),
    "soft_votes": lambda lead: neighbors.soft_votes(
        jnp.stack([1 - lead / 100, 0 * lead + 1.0]).reshape(1, 2, 1), 1, 0.01
    )[0, 0],
    "tanh box": lambda lead: constant_search.to_box(lead.reshape(1, 1, 1, 1) / 2)[0, 0, 0, 0],
    "tanh box below 0": lambda lead: constant_search.to_box(-lead.reshape(1, 1, 1, 1) / 2)[0, 0, 0, 0],
    "potential of others": potential(False),
    "potential of one's own": potential(True),
    "a slow potential": potential(False, 1e-2),
    "a fast potential": potential(True, 1e2),
}


@pytest.mark.parametrize("loss", SATURATING.values(), ids=SATURATING)
def test_slopes_keep_their_precision_where_values_saturate(loss):
    """Those of float64, in which a lead of 17 is not yet rounded away."""
    found = jax.vmap(jax.grad(loss))(jnp.asarray(LEADS))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        exact = np.asarray(jax.vmap(jax.grad(loss))(jnp.asarray(LEADS, jnp.float64)))
    np.testing.assert_allclose(found, exact, rtol=2e-3)
    assert (np.asarray(found) != 0).all()


SCALES = 10.0 ** np.arange(-9, 10, 3)
POINTS = np.random.default_rng(0).normal(size=(6, 4))
ROWS = np.random.default_rng(1).normal(size=(6, 3, 2, 4))
LABELS = np.array([0, 1, 2, 0, 1, 2], np.int32)


def nearest(points, rows):
    own, rival = losses.nearest(points, jnp.asarray(LABELS), jnp.ones(6, bool))
    return own - rival


OF_PAIRS = {
    "similarity, cosine": lambda f, r: losses.similarity(f, r, neighbors.Cosine())[:, 0, 0],
    "similarity, l2": lambda f, r: losses.similarity(f, r, neighbors.Euclidean()).sum((1, 2)),
    **{
        f"to_prototype, {kind}": lambda f, r, kind=kind: losses.to_prototype(
            f, r[:, 0, 0], neighbors.named(kind)
        )
        for kind in ("l2", "linf", "cosine")
    },
    "nearest": nearest,
    "prototype_radius": lambda f, r: losses.prototype_radius(
        f, r[0], jnp.asarray(LABELS), own=2, other=4
    ),
    "subspace_distances": lambda f, r: losses.subspace_distances(f, r[0].reshape(6, 4), 2).sum(1),
}


@pytest.mark.parametrize("shift", [0.0, 1.0, 1e3], ids=["", "close by", "very close by"])
@pytest.mark.parametrize("name", OF_PAIRS)
def test_slopes_of_distances_are_those_of_float64_at_every_scale(name, shift):
    """Also where points are closer to each other than to zero by `shift`."""
    if shift and "cosine" in name:
        pytest.skip("directions of nearly equal vectors are rounded themselves")
    for scale in SCALES:
        points, rows = (np.float32((shift + array) * scale) for array in (POINTS, ROWS))

        def slope(dtype, points=points, rows=rows):
            given = (jnp.asarray(array, dtype) for array in (points, rows))
            return jax.grad(lambda *a: (OF_PAIRS[name](*a) * jnp.arange(1, 7, dtype=dtype)).sum())(
                *given
            )

        found = np.asarray(slope(jnp.float32), np.float64)
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            exact = np.asarray(slope(jnp.float64))
        assert np.abs(found - exact).max() <= 1e-3 * np.abs(exact).max()


def test_a_loss_of_classes_without_anyone_is_a_number():
    """-inf is the score of a class that has no references; a class alone is certain."""
    scores = jnp.array([[0.0, -jnp.inf, -jnp.inf], [2.0, 1.0, -jnp.inf]])
    of = jax.value_and_grad(lambda s: losses.cross_entropy(s, jnp.array([0, 0])).sum())
    value, slope = of(scores)
    np.testing.assert_allclose(value, np.log1p(np.exp(-1)), rtol=1e-6)
    share = 1 / (1 + np.e)
    np.testing.assert_allclose(slope, [[0, 0, 0], [-share, share, 0]], rtol=1e-6)
    alone = jax.value_and_grad(lambda s: losses.cross_entropy(s, jnp.array([0])).sum())(scores[:1, :1])
    assert [float(number.sum()) for number in alone] == [0, 0]


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("scale", [1e-36, 1e-25, 1e-12, 1.0, 1e12, 1e25, 1e37])
def test_the_steepest_step_has_length_one_however_small_the_gradient(norm, scale):
    ball = balls.ball(norm, 1.0)
    gradient = jnp.asarray(POINTS, jnp.float32)
    step = ball.steepest(gradient * scale)
    np.testing.assert_allclose(ball.norm(step), np.ones(6), rtol=1e-5)
    np.testing.assert_allclose(step, ball.steepest(gradient), rtol=1e-4)
