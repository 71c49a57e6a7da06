"""Attacks on classifiers whose boundary is known, and what holds for any classifier."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import victims
from jax.tree_util import Partial
from victims import counted, flat

from knn_jax import attacks, classifiers
from knn_jax.attacks import batches
from knn_jax.classifiers.decision import Decision

SHAPE = (2, 2, 1)
KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("quick")
norms = pytest.mark.parametrize("norm", ["l2", "linf"])


def pixels(rows, labels, k=1):
    """A classifier on pixels whose bank is `rows` (row, 4)."""
    return classifiers.knn(
        flat, jnp.asarray(rows, jnp.float32).reshape(-1, *SHAPE), jnp.array(labels), k=k
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linear(Decision):
    """Class 0 where <w, x> is below the threshold: any classifier with these methods is attackable."""

    w: jax.Array
    threshold: jax.Array
    k: int = dataclasses.field(default=1, metadata={"static": True})
    classes: int = dataclasses.field(default=2, metadata={"static": True})

    def votes(self, x):
        lead = self.threshold - flat(x) @ self.w
        return jnp.stack([lead, jnp.zeros_like(lead)], 1)

    def references(self, x, count=None):
        return jnp.zeros((len(x), 1))

    def soft_votes(self, x, references, temperature):
        return self.votes(x)

    def rivals(self, x, y, count):
        return jnp.repeat(x[:, None], count, 1)


def sure(x):
    """Logits of two classes, of which the first leads for every image."""
    return flat(x)[:, :2] * 0 + jnp.array([[1.0, 0.0]])


def ascend(w, x, y):
    return flat(x) @ w


@pytest.fixture(scope="module")
def digits(quick):
    """A 3-NN of 200 digits, and five others that it classifies rightly."""
    model, x, y = victims.digits()
    right = np.flatnonzero(model.margin(x, y) > 0)[:5]
    return model, x[right], y[right]


@pytest.mark.parametrize(
    ("attack", "gradients"),
    [
        (partial(attacks.pgd, eps=0.1, steps=4, refresh=3, restarts=2), 8),
        (partial(attacks.pgd, eps=0.1, steps=4, refresh=2, loss=Partial(ascend, jnp.ones(4))), 4),
        (partial(attacks.minimum_norm, steps=3, starts=4, refresh=2), 12),
    ],
    ids=["pgd", "pgd of another loss", "minimum_norm"],
)
def test_it_counts_what_it_computes_and_is_traced_once(attack, gradients):
    """Counted by features that report each trace and, at run time, each pass through them."""
    features, passes = counted()
    images = jax.random.uniform(jax.random.key(1), (8, *SHAPE))
    model = classifiers.knn(features, images, jnp.arange(8) % 2, k=1)
    jax.effects_barrier()
    passes.update(forward=0)
    found = attack(KEY, model, images[:2] * 0.9, jnp.array([0, 1]))
    jax.effects_barrier()
    assert found.gradients == gradients
    assert passes["gradient"] == (0 if "loss" in attack.keywords else gradients)

    traces, forwards = passes["trace"], passes["forward"]
    attack(jax.random.key(1), model, images[2:4] * 0.9, jnp.array([1, 0]))
    assert passes["trace"] == traces > 0
    assert found.forwards == forwards


W = jnp.array([1.0, -2.0, 0.5, -0.25])


@pytest.mark.parametrize(
    ("norm", "eps", "x"),
    [
        ("linf", 0.1, [0.5, 0.5, 0.5, 0.5]),
        ("linf", 0.1, [0.95, 0.3, 0.4, 0.02]),
        ("l2", 0.2, [0.5, 0.5, 0.5, 0.5]),
    ],
    ids=["linf", "linf clipped", "l2"],
)
def test_pgd_reaches_the_maximum_of_a_linear_loss(norm, eps, x):
    """x + eps sign(w), clipped to the pixels, or x + eps w / |w|; only just beyond the threshold."""
    steepest = np.sign(W) if norm == "linf" else W / np.linalg.norm(W)
    expected = np.clip(np.array(x) + eps * steepest, 0, 1)
    model = Linear(W, jnp.float32(expected @ W - 1e-4))
    image, y = jnp.array(x).reshape(1, *SHAPE), jnp.array([0])
    loss = Partial(ascend, W)
    found = attacks.pgd(KEY, model, image, y, norm=norm, eps=eps, steps=40, step_size=eps, loss=loss)
    assert found.success.all()
    np.testing.assert_allclose(flat(found.image)[0], expected, atol=1e-5)


@pytest.mark.parametrize("refresh", [0, 1])
def test_what_is_no_image_fools_nobody(refresh):
    """Of a loss whose slope is no number every iterate is none either, nor the network's decision."""
    x = jnp.full((2, *SHAPE), 0.5)
    model = classifiers.network(Partial(sure), x)
    loss = Partial(lambda x, y: jnp.sqrt(-jnp.abs(flat(x))).sum(1))
    found = attacks.pgd(KEY, model, x, jnp.array([0, 0]), eps=0.1, steps=2, refresh=refresh, loss=loss)
    assert not found.success.any()
    np.testing.assert_array_equal(found.image, x)


def test_pgd_within_a_radius_too_small_fails_and_leaves_the_image():
    """The loss rises by at most eps |w|_1 = 0.375 in the ball and 0.4 are needed."""
    x = jnp.full((1, *SHAPE), 0.5)
    model = Linear(W, jnp.float32(flat(x)[0] @ W + 0.4))
    found = attacks.pgd(KEY, model, x, jnp.array([0]), eps=0.1, loss=Partial(ascend, W))
    assert not found.success.any()
    assert np.isinf(found.norm).all()
    np.testing.assert_array_equal(found.image, x)


def test_eps_and_the_parameters_of_a_loss_are_arguments_of_the_program():
    traces = []

    def loss(w, x, y):
        traces.append(1)
        return ascend(w, x, y)

    x, model = jnp.full((1, *SHAPE), 0.5), Linear(W, jnp.float32(9.0))
    for number in range(3):
        attacks.pgd(KEY, model, x, jnp.array([0]), eps=0.1 * number, loss=Partial(loss, number * W))
        first = len(traces) if number == 0 else first
    assert len(traces) == first > 0


def bisector(x, own, others, norm):
    """The distance to the nearest of the planes between `own`, which is nearest, and each other."""
    x, own, others = (np.asarray(a, np.float64) for a in (x, own, others))
    lead = np.sum((others - x) ** 2, -1) - np.sum((own - x) ** 2, -1)
    dual = np.linalg.norm(others - own, {"l2": 2, "linf": 1}[norm], -1)
    return (lead / (2 * dual)).min()


OWN = [0.4, 0.5, 0.5, 0.45]
RIVALS = {
    "one": [[0.6, 0.55, 0.4, 0.7]] * 5,
    "the nearest has not the nearest plane": [[0.41, 0.5, 0.58, 0.45], *[[0.6, 0.5, 0.49, 0.45]] * 4],
    "five": np.random.default_rng(3).uniform(0.2, 0.8, (5, 4)).round(3).tolist(),
    "a planted one": [[0.47, 0.55, 0.52, 0.45], *np.random.default_rng(1).choice([0.05, 0.95], (4, 4))],
}


@norms
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("rivals", RIVALS.values(), ids=RIVALS)
def test_minimum_norm_comes_close_to_the_known_boundary(norm, rivals, k):
    """One row of the class: the boundary is the nearest bisector, whose foot lies in the box. With k
    copies of each row, the k nearest vote alike."""
    model = pixels([OWN, *rivals] * k, [0, 2, 1, 1, 1, 1] * k, k=k)
    x = jnp.array([[0.42, 0.5, 0.46, 0.45], [0.4, 0.48, 0.5, 0.4], OWN], jnp.float32)
    truth = np.array([bisector(image, OWN, rivals, norm) for image in x])
    assert (truth > 0).all()
    y = jnp.zeros(3, jnp.int32)
    found = attacks.minimum_norm(KEY, model, x.reshape(-1, *SHAPE), y, norm=norm, steps=60)
    assert found.success.all()
    assert (found.norm >= truth - 1e-5).all()
    assert (found.norm <= 1.25 * truth).all()


def test_pgd_takes_soft_votes_of_neighbours_at_temperature_1(digits):
    model, x, y = digits
    attack = partial(attacks.pgd, KEY, model, x, y, eps=0.2, steps=3)
    np.testing.assert_array_equal(attack().image, attack(temperature=1.0).image)
    assert (attack().image != attack(temperature=0.1).image).any()


def test_of_one_class_alone_every_image_is_right():
    """And its lead is a number, where votes are integers too."""
    model, x = pixels([[0.1] * 4, [0.9] * 4], [0, 0]), jnp.full((1, *SHAPE), 0.5)
    assert model.margin(x, jnp.array([0])) > 0
    assert not attacks.pgd(KEY, model, x, jnp.array([0]), eps=0.5, steps=1).success


def test_a_tied_vote_is_the_lower_classes():
    """All numbers here are exact in binary: the margin is zero, and class 0 is predicted."""
    x = jnp.full((2, *SHAPE), 0.5)
    model, y = Linear(W, flat(x)[0] @ W), jnp.array([0, 1])
    assert (model.margin(x, y) == 0).all()
    np.testing.assert_array_equal(model.predict(x), [0, 0])
    np.testing.assert_array_equal(model.right(x, y), [True, False])
    found = attacks.pgd(KEY, model, x, y, eps=0.1, loss=Partial(ascend, W))
    assert found.success.all()
    assert (model.predict(found.image) != y).all()
    assert found.norm[0] > 0
    assert found.norm[1] == 0


SMALL = pixels([[0.2] * 4, [0.8] * 4], [0, 1])
GREY = jnp.full((2, *SHAPE), 0.5)


@pytest.mark.parametrize(
    ("loss", "shape"), [(lambda x, y: flat(x), r"\(2, 4\)"), (lambda x, y: x.sum(), r"\(\)")]
)
def test_a_loss_that_is_not_one_number_an_image_is_refused(loss, shape):
    with pytest.raises(ValueError, match=f"the loss is {shape}"):
        attacks.pgd(KEY, SMALL, GREY, jnp.array([0, 1]), eps=0.1, loss=loss)


def test_a_batch_larger_than_memory_allows_is_attacked_in_parts(monkeypatch):
    """References for two of five images at once: the features are traced for two, with one result."""
    images = jax.random.uniform(jax.random.key(1), (8, *SHAPE))
    attack = partial(attacks.pgd, norm="linf", eps=0.3, steps=2)

    def attacked():
        """Through features of their own, whose programs are nobody else's."""
        sizes = []

        def features(x):
            sizes.append(len(x))
            return flat(x)

        model = classifiers.knn(features, images, jnp.arange(8) % 2, k=1)
        sizes.clear()
        return jax.jit(attack)(KEY, model, images[:5] * 0.9, jnp.arange(5) % 2), sizes

    whole, sizes = attacked()
    assert 2 not in sizes
    monkeypatch.setattr(batches, "REFERENCES", 2 * 2 * 4)
    parts, sizes = attacked()
    assert 2 in sizes
    np.testing.assert_allclose(parts.image, whole.image, atol=1e-6)
    np.testing.assert_array_equal(parts.success, whole.success)
