"""The walk along the boundary, where the boundary is known and where nothing but decisions is."""

import dataclasses
import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import victims
from victims import flat, lengths

from knn_jax import attacks, classifiers
from knn_jax.attacks import batches

SHAPE = (4, 4, 1)
KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("quick")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linear:
    """Nothing but decisions: class 0 where <w, x> is below 1, in steps without a gradient."""

    w: jax.Array

    def right(self, x, y):
        return flat(x) @ self.w < 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outside:
    """The same decisions, made by NumPy outside JAX."""

    w: jax.Array

    def right(self, x, y):
        def decide(x, w):
            return x.reshape(len(x), -1) @ w < 1

        return jax.pure_callback(decide, jax.ShapeDtypeStruct((len(x),), bool), x, self.w)


W = jax.random.uniform(jax.random.key(1), (16,), minval=-0.1, maxval=0.5)
X = jax.random.uniform(jax.random.key(2), (5, *SHAPE), minval=0.1, maxval=0.3)
Y = jnp.zeros(5, jnp.int32)
STARTS = jax.random.uniform(jax.random.key(3), (5, 3, *SHAPE), minval=0.6).at[:, 0].set(X)


def test_it_comes_close_to_a_known_boundary():
    """The foot of every image lies in the box; the first start fools nobody."""
    distance = (1 - np.asarray(flat(X) @ W)) / np.linalg.norm(W)
    foot = np.asarray(flat(X)) + distance[:, None] * np.asarray(W / jnp.linalg.norm(W))
    assert ((foot > 0) & (foot < 1)).all()
    found = attacks.boundary(KEY, Linear(W), X, Y, steps=400, starts=STARTS)
    assert found.success.all()
    assert (found.norm >= distance - 1e-5).all()
    assert (found.norm <= 1.03 * distance).all()
    longer = attacks.boundary(KEY, Linear(W), X, Y, steps=3000, starts=STARTS)
    assert (longer.norm <= 1.001 * distance).all()  # neither step size may stay as it is for that


def test_decisions_made_outside_jax_are_enough():
    """No gradient can be had of them, and the walk is the same."""
    walk = partial(attacks.boundary, KEY, x=X, y=Y, steps=20, starts=STARTS)
    found, expected = walk(model=Outside(W)), walk(model=Linear(W))
    np.testing.assert_allclose(found.image, expected.image, atol=1e-6)
    assert found.gradients == 0


@pytest.fixture(scope="module")
def digits(quick):
    """A 3-NN of 200 digits, and six others, the last wrong from the beginning."""
    model, x, y = victims.digits()
    right = np.flatnonzero(model.margin(x, y) > 0)[:6]
    return model, x[right], y[right].at[-1].add(1) % 10


@pytest.fixture(scope="module")
def walks(digits):
    """What 1, 30 and 300 steps find."""
    return [attacks.boundary(KEY, *digits, steps=steps) for steps in (1, 30, 300)]


def test_it_finds_images_near_digits_by_the_hard_vote(walks, digits):
    model, x, y = digits
    for found in walks:
        assert found.success.all()
        assert (model.margin(found.image, y) <= 0).all()
        np.testing.assert_allclose(found.norm, lengths("l2", found.image - x), rtol=1e-5)
        assert found.norm[-1] == 0


def test_images_stay_in_the_box(walks):
    for found in walks:
        assert found.image.min() >= 0
        assert found.image.max() <= 1


def test_more_steps_are_never_worse(walks):
    norms = np.stack([found.norm for found in walks])
    assert (np.diff(norms, axis=0) <= 0).all()
    assert (norms[-1, :-1] < norms[0, :-1]).all()


def test_the_batch_and_the_tile_do_not_change_an_image(monkeypatch, walks, digits):
    """Three of the six images, in two tiles of which the last is padded."""
    model, x, y = digits
    monkeypatch.setattr(batches, "BATCH", 2)
    jax.clear_caches()
    tiled = attacks.boundary(KEY, model, x[:3], y[:3], steps=30)
    np.testing.assert_allclose(tiled.image, walks[1].image[:3], atol=1e-6)


def test_the_key_decides():
    first, again, other = (
        attacks.boundary(jax.random.key(seed), Linear(W), X, Y, steps=20, starts=STARTS)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.image != other.image).any()


def test_where_no_start_fools_the_clean_image_comes_back():
    found = attacks.boundary(KEY, Linear(W), X, Y, steps=20, starts=X[:, None] * 0.5)
    assert not found.success.any()
    assert np.isinf(found.norm).all()
    np.testing.assert_array_equal(found.image, X)


def test_it_counts_the_images_that_it_asks_about():
    """By features that report each pass at run time, the judge's among them."""
    passes = []

    def features(x):
        jax.debug.callback(lambda: passes.append(len(x)))
        return flat(x)

    model = classifiers.knn(features, jax.random.uniform(KEY, (8, *SHAPE)), jnp.arange(8) % 2, k=1)
    jax.effects_barrier()
    passes.clear()
    found = attacks.boundary(KEY, model, X, Y, steps=25)
    jax.effects_barrier()
    assert found.forwards == len(passes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"starts": None}, "Linear has no bank of images: give starts"),
        ({"starts": STARTS[:2]}, r"starts \(2, 3, 4, 4, 1\) for images \(5, 4, 4, 1\)"),
        ({"starts": STARTS[:, :0]}, r"starts \(5, 0, 4, 4, 1\)"),
        ({"starts": STARTS * 3}, "images reach from"),
        ({"x": X * 9}, "images reach from"),
        ({"y": Y - 1}, "labels reach from -1"),
    ],
)
def test_what_cannot_be_attacked_is_refused(arguments, message):
    usual = {"key": KEY, "model": Linear(W), "x": X, "y": Y, "starts": STARTS}
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(attacks.Boundary.__call__)(attacks.Boundary(), **usual | arguments)


def test_a_walk_is_a_value(walks, digits):
    """Run by the value and inside a jit it finds the same; it has no other norm, source or length."""
    walk = attacks.Boundary(steps=30)
    assert eval(repr(walk), vars(attacks)) == walk
    found = jax.jit(lambda key: walk(key, *digits))(KEY)
    np.testing.assert_allclose(found.image, walks[1].image, atol=1e-6)
    for refused in ({"norm": "linf"}, {"source": Linear(W)}):
        with pytest.raises(ValueError, match=f"{next(iter(refused))}"):
            walk(KEY, Linear(W), X, Y, starts=STARTS, **refused)
    with pytest.raises(ValueError, match="steps=0"):
        attacks.Boundary(steps=0)
    with pytest.raises(ValueError, match="float lacks right"):
        walk(KEY, 0.0, X, Y, starts=STARTS)
