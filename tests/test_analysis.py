"""Dimensions and Jacobians that are known, and the credibility of predictions worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from sklearn.datasets import load_digits

from knn_jax import analysis, nets

pytestmark = pytest.mark.usefixtures("quick")


def flat(x):
    return x.reshape(x.shape[0], -1)


def ball(dim, rows, seed=0):
    """Points uniform in the unit ball of `dim` dimensions, turned into 12 dimensions."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(rows, dim))
    points *= rng.uniform(size=(rows, 1)) ** (1 / dim) / np.linalg.norm(points, axis=1, keepdims=True)
    turn = np.linalg.qr(rng.normal(size=(12, 12)))[0][:dim]
    return jnp.asarray(points @ turn, jnp.float32)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_dimension_of_a_ball_turned_into_more_is_found(dim):
    """At its centre, where no neighbour is missing; in 12 dimensions only `dim` have any extent."""
    bank = ball(dim, 4000)
    found = analysis.lid(jnp.zeros((1, 12)), bank, k=1000)
    assert found.shape == (1,)
    assert found[0] == pytest.approx(dim, rel=0.1)  # the standard error is dim / sqrt(k)


def test_the_dimension_is_the_papers_formula():
    query, bank = jnp.split(jax.random.normal(jax.random.key(0), (210, 5)), [10])
    between = np.asarray(query, np.float64)[:, None] - np.asarray(bank)
    distance = np.sort(np.linalg.norm(between, axis=-1), 1)[:, :30]
    expected = -1 / np.log(distance / distance[:, -1:]).mean(1)
    np.testing.assert_allclose(analysis.lid(query, bank, k=30), expected, rtol=1e-4)


def test_the_dimension_does_not_depend_on_scale_or_batch(monkeypatch):
    query, bank = ball(3, 7, seed=1) * 0.5, ball(3, 200)
    expected = analysis.lid(query, bank, k=50)
    np.testing.assert_allclose(analysis.lid(1e3 * query, 1e3 * bank, k=50), expected, rtol=1e-4)
    monkeypatch.setattr(analysis, "BATCH", 2)
    jax.clear_caches()
    np.testing.assert_allclose(analysis.lid(query, bank, k=50), expected, rtol=1e-5)


def test_the_dimension_at_a_row_is_0_and_among_rows_equally_far_infinite():
    bank = jnp.array([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 2.0]])
    queries = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    np.testing.assert_array_equal(analysis.lid(queries, bank, k=4), [0, np.inf])
    np.testing.assert_array_equal(analysis.lid(queries[:1], jnp.zeros((4, 2)), k=3), [0])


@pytest.mark.parametrize(("k", "message"), [(1, "use 2 neighbours"), (5, "asked of a bank of 4 rows")])
def test_a_k_that_says_nothing_is_refused(k, message):
    with pytest.raises(ValueError, match=message):
        analysis.lid(jnp.zeros((1, 2)), jnp.zeros((4, 2)), k=k)


@pytest.fixture(scope="module")
def trunk(quick):
    """The second layer of an untrained network, and three digits."""
    net = nets.trunk.Trunk(((8, 3, 2, 1), (8, 2, 1, 0)), 10)
    images = jnp.asarray(load_digits().images[:3, ..., None] / 16, jnp.float32)
    variables = jax.jit(net.init)(jax.random.key(0), images)
    return lambda x: net.apply(variables, x)[1]["relu2"], images


def test_the_jacobian_norm_is_the_largest_singular_value(trunk):
    features, x = trunk
    jacobian = jax.jit(jax.vmap(jax.jacfwd(lambda image: features(image[None])[0])))(x)
    expected = [
        np.linalg.norm(np.asarray(one, np.float64).reshape(len(one), -1), 2) for one in jacobian
    ]
    found = analysis.jacobian_norm(features, x, tolerance=1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


WEIGHTS = jax.random.normal(jax.random.key(0), (16, 6))
IMAGES = jax.random.uniform(jax.random.key(1), (5, 4, 4, 1))


def test_the_jacobian_norm_of_a_linear_map_grows_to_its_norm_from_below():
    features, truth = Partial(lambda w, x: flat(x) @ w, WEIGHTS), np.linalg.norm(WEIGHTS, 2)
    found = [analysis.jacobian_norm(features, IMAGES, steps=n, tolerance=1e-9) for n in (1, 3, 10, 99)]
    found = np.stack(found)
    assert (np.diff(found, axis=0) >= -1e-5).all()
    assert (found[0] < 0.99 * truth).all()
    assert (found <= truth * (1 + 1e-5)).all()
    np.testing.assert_allclose(found[-1], truth, rtol=1e-5)


@pytest.mark.parametrize("pixel", [0, 326, 783])
@pytest.mark.parametrize("rest", [1.0, 0.0], ids=["ones", "zeros"])
def test_a_single_stretched_pixel_is_found(pixel, rest):
    """All of 90 images, by a start of their own; at 326 one start for all has next to nothing."""
    scale = jnp.full((1, 784), rest).at[0, pixel].set(5.0)
    x = jax.random.uniform(jax.random.key(2), (90, 28, 28, 1))
    found = analysis.jacobian_norm(Partial(lambda scale, x: scale * flat(x), scale), x)
    np.testing.assert_allclose(found, 5, rtol=1e-5)


def test_it_keeps_what_it_promises_where_singular_values_lie_close():
    """300 of them evenly from 4 to 5, turned; one in a million starts may be farther off than told."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(300, 300)))[0]
    matrix = jnp.asarray(turn * np.linspace(4, 5, 300), jnp.float32)
    features = Partial(lambda m, x: flat(x) @ m, matrix)
    x = jnp.zeros((30, 15, 20, 1))
    few, some = (np.asarray(analysis.jacobian_norm(features, x, tolerance=t)) for t in (0.1, 0.01))
    for found, tolerance in ((few, 0.1), (some, 0.01)):
        assert (found <= 5 * (1 + 1e-5)).all()
        assert (found >= 5 * (1 - tolerance)).all()
    assert few.mean() < some.mean()
    assert len(np.unique(few)) > 20  # each image has a start of its own


@pytest.mark.parametrize("tolerance", [0.3, 0.1, 0.01, 0.001])
def test_as_many_steps_as_the_theorem_asks_for(tolerance):
    steps, error = analysis.lanczos_steps(10**6, tolerance), 1 - (1 - tolerance) ** 2
    for count, enough in ((steps, True), (steps - 1, False)):
        doubt = 1.648 * 10**3 * np.exp(-np.sqrt(error) * (2 * count - 1))
        assert (doubt <= analysis.DOUBT) == enough
    assert analysis.lanczos_steps(7, tolerance) == 7 if steps > 7 else True


def test_the_tile_and_what_is_beside_an_image_change_nothing(monkeypatch):
    """But for its place, by which its start is drawn."""
    features = Partial(lambda w, x: flat(jnp.sin(9 * x)) @ w, WEIGHTS)
    whole = analysis.jacobian_norm(features, IMAGES, steps=3)
    np.testing.assert_allclose(
        analysis.jacobian_norm(features, IMAGES[:1], steps=3), whole[:1], rtol=1e-5
    )
    monkeypatch.setattr(analysis, "HELD", 2)
    jax.clear_caches()
    np.testing.assert_allclose(analysis.jacobian_norm(features, IMAGES, steps=3), whole, rtol=1e-5)


def test_the_jacobian_norm_of_a_constant_is_0():
    np.testing.assert_array_equal(analysis.jacobian_norm(lambda x: 0 * flat(x), IMAGES), np.zeros(5))


def test_the_jacobian_norm_is_found_where_a_grey_image_is_mapped_to_zero():
    found = analysis.jacobian_norm(lambda x: 3 * (flat(x) - x.mean((1, 2))), IMAGES)
    np.testing.assert_allclose(found, 3, rtol=1e-5)


@pytest.mark.parametrize("numbers", [{"steps": 0}, {"tolerance": 0.0}])
def test_an_iteration_that_cannot_run_is_refused(numbers):
    with pytest.raises(ValueError, match="both must be above 0"):
        analysis.jacobian_norm(flat, IMAGES, **numbers)
