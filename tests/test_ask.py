"""The ASK loss and attack, and the baselines that its paper compares it to."""

import dataclasses
import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from victims import flat

from knn_jax import attacks, classifiers, losses, neighbors
from knn_jax.attacks.ask import _simplex
from knn_jax.attacks.ask_loss import drawn_rows, nearest_class
from knn_jax.attacks.dknn import _threshold
from knn_jax.losses import adversarial_soft_neighbors, similarity

SHAPE = (2, 2, 1)
KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("quick")


def points(count, seed=0, classes=3):
    """Images around a corner of each class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    corners = np.array([[0.2, 0.3, 0.7, 0.6], [0.7, 0.2, 0.3, 0.5], [0.4, 0.7, 0.6, 0.2]])
    rows = np.clip(corners[labels] + rng.normal(0, 0.12, (count, 4)), 0, 1)
    return jnp.asarray(rows.reshape(-1, *SHAPE), jnp.float32), jnp.asarray(labels, jnp.int32)


def double(x):
    """A second tap."""
    return jnp.concatenate([jnp.square(flat(x)), flat(x)], 1)


@pytest.fixture(scope="module")
def model(quick):
    return classifiers.knn([flat, double], *points(40), k=3)


@pytest.fixture(scope="module")
def imitation(model):
    return attacks.imitate(KEY, model, epochs=300, width=16, batch_size=8)


SETTINGS = {"eps": 0.12, "steps": 4}


def test_similarity_by_hand():
    features = jnp.array([[3.0, 4.0]])
    rows = jnp.array([[[6.0, 8.0], [4.0, -3.0]], [[3.0, 0.0], [0.0, 0.0]]])
    np.testing.assert_allclose(
        similarity(features, rows, neighbors.Cosine()), [[[1, 0], [0.6, 0]]], atol=1e-6
    )
    np.testing.assert_allclose(
        similarity(features, rows, neighbors.Euclidean()), [[[-5, -np.sqrt(50)], [-4, -5]]], rtol=1e-6
    )
    for metric in (neighbors.Cosine(), neighbors.Euclidean()):
        own = similarity(features, rows[None], metric)
        np.testing.assert_allclose(own, similarity(features, rows, metric), atol=1e-6)
        gradient = jax.grad(lambda f, m=metric: similarity(f, rows, m).sum())
        assert jnp.isfinite(gradient(jnp.zeros((1, 2)))).all()


def test_a_classifier_by_the_cosine_is_that_of_directions():
    images, labels = points(30)
    x, _ = points(10, seed=7)
    cosine = classifiers.knn(flat, images, labels, k=3, metric="cosine")
    bank, query = (np.asarray(flat(a), np.float64) for a in (images, x))
    alike = query @ bank.T / np.linalg.norm(query, axis=1)[:, None] / np.linalg.norm(bank, axis=1)
    nearest = np.asarray(labels)[np.argsort(-alike, 1)[:, :3]]
    np.testing.assert_array_equal(cosine.votes(x), np.eye(3, dtype=int)[nearest].sum(1))


def test_ask_loss_by_hand():
    """Two classes, of masses 2 and 1, then 5 and 2; and with references that are not there."""
    alike = jnp.log(jnp.array([[[1.0, 4.0], [1.0, 1.0]]]))
    there, y = jnp.ones((1, 2, 2), bool), jnp.array([0])
    loss = partial(adversarial_soft_neighbors, alike, y)
    np.testing.assert_allclose(loss(there, "mean"), -np.log([2 / 3]), rtol=1e-6)
    np.testing.assert_allclose(loss(there, "sum"), -np.log([5 / 7]), rtol=1e-6)
    fewer = there.at[0, 0, 1].set(False)
    np.testing.assert_allclose(loss(fewer, "mean"), -np.log([1 / 2]), rtol=1e-6)
    np.testing.assert_allclose(loss(fewer, "sum"), -np.log([1 / 3]), rtol=1e-6)
    none = there.at[0, 1].set(False)
    for form in ("mean", "sum"):
        np.testing.assert_allclose(loss(none, form), [0], atol=1e-6)


@pytest.mark.parametrize("form", ["mean", "sum"])
def test_ask_loss_is_that_of_class_scores(form):
    alike = jax.random.normal(KEY, (5, 4, 3))
    y, there = jnp.array([0, 3, 1, 2, 2]), jnp.ones((1, 4, 3), bool)
    scores = alike.mean(-1) if form == "mean" else jnp.log(jnp.exp(alike).sum(-1))
    found = adversarial_soft_neighbors(alike, y, there, form)
    np.testing.assert_allclose(found, losses.cross_entropy(scores, y), rtol=1e-5)


def test_information_is_none_where_references_tell_nothing():
    """All classes alike: the loss is log C, and the bound log((C - 1) / C)."""
    loss = adversarial_soft_neighbors(
        jnp.zeros((1, 4, 2)), jnp.array([1]), jnp.ones((1, 4, 2), bool), "mean"
    )
    np.testing.assert_allclose(losses.information(loss, 4), np.log([3 / 4]), rtol=1e-5)


def test_an_attack_lowers_what_images_tell_of_their_class(model):
    """Over the references of the clean image; by hand for one tap and k = 1."""
    x, y = points(9, seed=1)
    tells = {"temperature": 0.1, "weights": (0.7, 0.3)}
    image = attacks.ask(KEY, model, x, y, eps=0.1, **tells).image
    clean, adversarial = (attacks.information(model, x, y, z, **tells) for z in (x, image))
    assert adversarial.mean() < clean.mean()
    one = classifiers.knn(flat, model.images, model.labels, k=1)
    found = attacks.information(one, x, y, image, metric="l2", temperature=0.1)
    bank, query, moved = (np.asarray(flat(a), np.float64) for a in (model.images, x, image))
    distance = np.linalg.norm(query[:, None] - bank[None], axis=-1)
    nearest = [np.where(model.labels == c, distance, np.inf).argmin(1) for c in range(3)]
    scores = np.stack([-np.linalg.norm(moved - bank[rows], axis=1) / 0.1 for rows in nearest], 1)
    loss = np.log(np.exp(scores).sum(1)) - scores[np.arange(9), y]
    np.testing.assert_allclose(found, np.log(2) - loss, rtol=1e-4, atol=1e-5)


def test_of_two_classes_the_target_is_the_other(model):
    two = classifiers.knn(flat, *points(20, classes=2), k=3)
    x, y = points(4, seed=2, classes=2)
    found = (attacks.ask(KEY, two, x, y, **SETTINGS, targeted=targeted) for targeted in (False, True))
    np.testing.assert_allclose(*(f.image for f in found), atol=1e-6)


def test_a_target_is_the_class_that_is_nearest_on_average():
    """Class 2 has the nearest row, class 1 the nearer pair."""
    rows = np.array([[0.5, 0.5], [0.5, 0.5], [0.2, 0.5], [0.22, 0.5], [0.5, 0.72], [0.5, 0.98]])
    images = jnp.asarray(np.repeat(rows, 2, 1).reshape(-1, *SHAPE), jnp.float32)
    bank = classifiers.knn(flat, images, jnp.array([0, 0, 1, 1, 2, 2]), k=1)
    mine = jnp.array([[True, False, False]])
    for count, target in ((1, 2), (2, 1)):
        there = jnp.ones((1, 3, count), bool)
        found = nearest_class(bank, images[:1], bank.references(images[:1], count), there, mine)
        np.testing.assert_array_equal(found, jnp.arange(3)[None] == target)


def test_the_gray_box_is_climbed_by_the_source_and_judged_by_the_model(model):
    x, y = points(6, seed=3)
    first = classifiers.knn(flat, model.images, model.labels, k=3)
    own = attacks.ask(KEY, first, x, y, **SETTINGS, step_size=0.03)
    gray = attacks.ask(KEY, model, x, y, **SETTINGS, step_size=0.03, source=first)
    both = np.asarray(own.success & gray.success)
    assert both.any()
    np.testing.assert_allclose(own.image[both], gray.image[both], atol=1e-6)
    np.testing.assert_array_equal(gray.success, model.margin(gray.image, y) <= 0)
    soft = attacks.pgd(KEY, model, x, y, **SETTINGS, source=first)
    np.testing.assert_array_equal(soft.success, model.margin(soft.image, y) <= 0)


def test_rows_are_drawn_of_every_class():
    labels = jnp.array([2, 0, 1, 1, 2, 2, 0])
    images = jnp.broadcast_to((labels / 4)[:, None, None, None], (7, *SHAPE)).astype(jnp.float32)
    bank = classifiers.knn(flat, images + jnp.arange(7.0)[:, None, None, None] / 100, labels, k=1)
    (rows,) = drawn_rows(jax.random.split(KEY, 50), bank, 4)
    assert rows.shape == (50, 3, 4, 4)
    seen = np.round(np.asarray(rows)[..., 0] * 4, 0).astype(int)
    np.testing.assert_array_equal(seen, np.broadcast_to(np.arange(3)[None, :, None], seen.shape))
    assert len(np.unique(np.asarray(rows)[..., 0].round(4))) == 7


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_the_threshold_is_that_of_the_kth_neighbour_of_others(model, metric):
    bank = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    distance = np.linalg.norm(bank[:, None] - bank[None], axis=-1) + np.where(np.eye(12), np.inf, 0)
    last = bank[np.argsort(distance, 1)[:, 1]]
    if metric == "l2":
        expected = -np.linalg.norm(bank - last, axis=1)
    else:
        norms = np.linalg.norm(bank, axis=1) * np.linalg.norm(last, axis=1)
        expected = (bank * last).sum(1) / norms
    found = _threshold(dataclasses.replace(model, k=2), jnp.asarray(bank), neighbors.named(metric))
    np.testing.assert_allclose(found, expected.mean(), rtol=1e-5)


def test_an_imitation_votes_as_the_neighbours_do(model, imitation):
    x, _ = points(60, seed=4)
    logits = imitation.logits(x)
    np.testing.assert_allclose(np.exp(logits).sum(1), np.ones(60), rtol=1e-5)
    assert (imitation.predict(x) == model.predict(x)).mean() > 0.85
    shares = model.votes(x) / model.votes(x).sum(1, keepdims=True)
    assert np.abs(np.exp(logits) - shares).mean() < 0.15


def test_tune_takes_what_fools_most(model):
    x, y = points(9, seed=1)
    temperatures = (3.0, 0.03)
    settings = {**SETTINGS, "eps": 0.08}
    chosen, weights = attacks.tune(KEY, model, x, y, temperatures=temperatures, shares=3, **settings)

    def fooled(temperature, weights):
        return int(
            attacks.ask(
                KEY, model, x, y, temperature=temperature, weights=weights, **settings
            ).success.sum()
        )

    at_equal = [fooled(t, (0.5, 0.5)) for t in temperatures]
    np.testing.assert_allclose(chosen, np.full(2, temperatures[int(np.argmax(at_equal))]))
    grid = [(0.5, 0.5), (0.0, 1.0), (1.0, 0.0)]
    best = max(fooled(float(chosen[0]), w) for w in grid)
    assert fooled(float(chosen[0]), tuple(map(float, weights))) == best
    assert weights.sum() == 1


def test_shares_are_all_on_the_simplex():
    grid = _simplex(3, 2)
    assert sorted(map(tuple, grid)) == [
        (0, 0, 1), (0, 0.5, 0.5), (0, 1, 0), (0.5, 0, 0.5), (0.5, 0.5, 0), (1, 0, 0)
    ]  # fmt: skip


def test_arrays_may_be_closed_over_in_the_callers_jit(model):
    x, y = points(3, seed=1)
    settings = {"steps": 2, "temperature": jnp.array([0.03, 0.1]), "weights": jnp.array([0.7, 0.3])}

    def attack(key, eps):
        return attacks.ask(key, model, x, y, eps=eps, **settings).image

    inside = jax.jit(lambda key: attack(key, jnp.float32(0.1)))(KEY)
    np.testing.assert_allclose(inside, attack(KEY, 0.1), atol=1e-6)


@pytest.mark.parametrize("arguments", [{"shares": 1}, {"temperatures": ()}])
def test_a_choice_among_nothing_is_refused(model, arguments):
    x, y = points(2)
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}="):
        attacks.tune(KEY, model, x, y, **SETTINGS, **arguments)


def test_what_information_is_not_told_of_is_refused(model):
    x, y = points(2)
    with pytest.raises(ValueError, match=r"image of shape .* they must be equal"):
        inspect.unwrap(attacks.information)(model, x, y, x[:1])
    with pytest.raises(ValueError, match="out of range"):
        attacks.information(model, x, y + 7, x)
