"""What makes a ball's functions right, whatever its norm."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knn_jax import balls

SHAPE = (3, 4, 2, 1)
both = pytest.mark.parametrize("norm", ["l2", "linf"])
radii = pytest.mark.parametrize("eps", [0.5, jnp.array([0.0, 0.3, 2.0])], ids=["one", "per example"])


def lengths(norm, delta):
    """The norm of each example, in float64."""
    return np.linalg.norm(
        np.asarray(delta, np.float64).reshape(len(delta), -1), {"l2": 2, "linf": np.inf}[norm], 1
    )


def deltas(seed, scale=1.0):
    return scale * jax.random.normal(jax.random.key(seed), SHAPE)


@both
def test_norm_is_the_norm_of_each_example(norm):
    delta = deltas(0)
    np.testing.assert_allclose(balls.ball(norm, 1.0).norm(delta), lengths(norm, delta), rtol=1e-6)


@both
@radii
@pytest.mark.parametrize("scale", [0.01, 0.3, 100.0])
def test_project_lands_inside_and_stays_there(norm, eps, scale):
    ball = balls.ball(norm, eps)
    once = ball.project(deltas(1, scale))
    assert (lengths(norm, once) <= np.asarray(eps) * (1 + 1e-6)).all()
    np.testing.assert_allclose(ball.project(once), once, rtol=1e-6)


@both
@radii
def test_project_leaves_what_is_inside(norm, eps):
    """Half of a point of the ball is inside it, the centre too."""
    ball = balls.ball(norm, eps)
    inside = ball.project(deltas(1)) / 2
    np.testing.assert_array_equal(ball.project(inside), inside)


@both
@radii
def test_project_finds_the_nearest_point_of_the_ball(norm, eps):
    """In Euclidean distance, against 200 other points of the ball."""
    ball, delta = balls.ball(norm, eps), deltas(2, 2.0)
    nearest = lengths("l2", ball.project(delta) - delta)
    for seed in range(200):
        other = ball.sample(jax.random.key(seed), SHAPE)
        assert (nearest <= lengths("l2", other - delta) + 1e-6).all()


@both
def test_steepest_has_norm_one_and_ascends_most(norm):
    """Against 200 directions of norm one, and the dual norm, which it attains."""
    ball, gradient = balls.ball(norm, 0.3), deltas(3)
    steepest = ball.steepest(gradient)
    np.testing.assert_allclose(lengths(norm, steepest), 1, rtol=1e-6)
    ascent = np.sum(steepest * gradient, (1, 2, 3))
    dual = {"l2": 2, "linf": 1}[norm]
    expected = np.linalg.norm(np.reshape(gradient, (3, -1)), dual, 1)
    np.testing.assert_allclose(ascent, expected, rtol=1e-6)
    for seed in range(200):
        other = np.asarray(deltas(100 + seed))
        other = other / lengths(norm, other).reshape(3, 1, 1, 1)
        assert (np.sum(other * gradient, (1, 2, 3)) <= ascent).all()


@both
@radii
@pytest.mark.parametrize("size", [0.2, -3.0, jnp.array([1.0, 0.0, -0.5])], ids=["up", "down", "each"])
def test_a_step_stays_an_image_in_the_ball_and_ascends(norm, eps, size):
    """From the clean image, where the nearest point of both is no descent of the gradient."""
    clean = jax.random.uniform(jax.random.key(5), SHAPE)
    x = balls.step(balls.ball(norm, eps), clean, clean, deltas(4), size)
    assert (lengths(norm, x - clean) <= np.asarray(eps) * (1 + 1e-6)).all()
    assert ((x >= 0) & (x <= 1)).all()
    assert (np.asarray(size) * np.sum((x - clean) * deltas(4), (1, 2, 3)) >= 0).all()


@both
def test_no_gradient_gives_no_step(norm):
    np.testing.assert_array_equal(balls.ball(norm, 1.0).steepest(jnp.zeros(SHAPE)), np.zeros(SHAPE))


@both
@radii
def test_samples_lie_in_the_ball(norm, eps):
    sample = balls.ball(norm, eps).sample
    for seed in range(50):
        delta = sample(jax.random.key(seed), SHAPE)
        assert (lengths(norm, delta) <= np.asarray(eps) * (1 + 1e-6)).all()


@both
def test_samples_are_uniform_in_the_ball(norm):
    """Then a fraction t^d of them has norm below t, and no direction is preferred."""
    count, eps, dim = 4000, 0.5, 3
    delta = balls.ball(norm, eps).sample(jax.random.key(0), (count, dim, 1, 1))
    share = np.sort(lengths(norm, delta) / eps) ** dim
    assert np.abs(share - (np.arange(count) + 0.5) / count).max() < 0.03
    np.testing.assert_allclose(np.mean(delta, 0), 0, atol=0.02)


@both
def test_the_norm_of_zero_has_a_finite_gradient(norm):
    gradient = jax.grad(lambda d: balls.ball(norm, 1.0).norm(d).sum())(jnp.zeros(SHAPE))
    assert np.isfinite(gradient).all()


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="norm 'l1': use 'l2' or 'linf'"):
        inspect.unwrap(balls.ball)("l1", 1.0)


@pytest.mark.parametrize("value", [2.0, jnp.array([1.0, 2.0, 3.0])])
def test_a_value_is_shaped_to_broadcast_over_examples(value):
    scaled = balls.over(value, SHAPE) * jnp.ones(SHAPE)
    np.testing.assert_array_equal(scaled[:, 1, 1, 0], np.broadcast_to(value, 3))
