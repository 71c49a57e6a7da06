"""What every attack keeps of its promises in `Found`, on a few victims that are hard to judge."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import victims
from jax.tree_util import Partial
from victims import flat

from knn_jax import attacks, classifiers

SHAPE = (2, 2, 1)
KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("quick")
SHORT = {"steps": 8, "rounds": 3}
INSIDE = {"eps": 0.4, "steps": 4}

OF_ANY = {  # of any classifier
    "pgd linf": partial(attacks.pgd, norm="linf", restarts=2, **INSIDE),
    "pgd l2": partial(attacks.pgd, norm="l2", refresh=2, **INSIDE),
    "minimum_norm l2": partial(attacks.minimum_norm, norm="l2", steps=6, refresh=3),
    "minimum_norm linf": partial(attacks.minimum_norm, norm="linf", steps=6, starts=2),
    "fgsm": partial(attacks.fgsm, sizes=20),
    "ifgsm": partial(attacks.ifgsm, steps=3, sizes=20),
    "deepfool l2": partial(attacks.deepfool, steps=20),
    "deepfool linf": partial(attacks.deepfool, norm="linf", steps=20),
    "lbfgs": partial(attacks.lbfgs, **SHORT),
    "carlini_wagner": partial(attacks.carlini_wagner, constant=1.0, **SHORT),
    "boundary": partial(attacks.boundary, steps=30),
}
OF_ROWS = {  # of a classifier whose rows vote
    "ask": partial(attacks.ask, **INSIDE),
    "dknn": partial(attacks.dknn, **INSIDE),
    "kfgsm": partial(attacks.kfgsm, near=0.1, **INSIDE),
    "guided": partial(attacks.guided, guides=4, constant=10.0, **SHORT),
    "hinged": partial(attacks.hinged, guides=4, constant=10.0, refresh=4, noise=0.0, **SHORT),
}
STOPPING = (
    "fgsm",
    "ifgsm",
    "deepfool l2",
    "deepfool linf",
    "lbfgs",
    "carlini_wagner",
    "guided",
    "hinged",
)


def linear(parameters, x):
    weights, bias = parameters
    return flat(x) @ weights + bias


def coarse(x):
    """Pixels in quarters: without a slope."""
    return jnp.floor(4 * flat(x)) / 4


def rows(seed, count, features=flat, k=4, classes=3):
    """A kNN of even k and three classes, on rows that often coincide: many votes are tied."""
    images = np.random.default_rng(seed).integers(0, 4, (count, *SHAPE)) / 4 + 0.125
    labels = jnp.arange(count, dtype=jnp.int32) % classes
    return classifiers.knn(features, jnp.asarray(images, jnp.float32), labels, k=k)


def network(x, labels, top=1):
    """Linear, of four classes, with ties on the diagonal of the pixels."""
    weights = jnp.asarray([[1, 0, 0, 1], [0, 1, 0, -1], [0, 0, 1, 1], [0, 0, 0, -1]], jnp.float32)
    return classifiers.network(Partial(linear, (weights, jnp.zeros((1, 4)))), x, labels, top=top)


X = jnp.asarray(np.random.default_rng(5).integers(0, 5, (6, *SHAPE)) / 4, jnp.float32)


def named(model, x):
    """The classes that a model names, of its votes by a stable sort; none where nobody votes."""
    votes = np.asarray(model.votes(x), np.float64)
    order = np.argsort(-votes, 1, kind="stable")[:, : getattr(model, "top", 1)]
    some = np.isfinite(votes).all(1) & votes.any(1)
    return [set(classes) if any_ else set() for classes, any_ in zip(order, some, strict=True)]


def promised(model, x, y, found):
    """That what is found is what `Found` says."""
    image, y = np.asarray(found.image), np.asarray(y)
    assert np.isfinite(image).all()
    assert image.min() >= 0
    assert image.max() <= 1
    np.testing.assert_array_equal(found.success, np.isfinite(found.norm))
    before, after = named(model, x), named(model, found.image)
    for i, success in enumerate(np.asarray(found.success)):
        if success and found.norm[i] == 0:
            assert y[i] not in before[i]
        elif success:
            assert y[i] not in after[i]
        else:
            assert y[i] in before[i]
            np.testing.assert_array_equal(image[i], x[i])
    for flag in (found.no_gradient, found.exhausted):
        assert flag.shape == y.shape
        assert flag.dtype == bool
        assert not np.asarray(flag)[[y[i] not in before[i] for i in range(len(y))]].any()


@pytest.mark.parametrize("name", OF_ANY | OF_ROWS)
def test_what_is_found_is_what_predict_says_also_where_votes_are_tied(name):
    model, y = rows(0, 30), jnp.arange(6, dtype=jnp.int32) % 3
    found = (OF_ANY | OF_ROWS)[name](KEY, model, X, y)
    promised(model, X, y, found)
    assert found.success.any()
    # Its own soft votes and ranks slope, so that only what was fooled without them has no gradient.
    assert not found.no_gradient.all()
    np.testing.assert_array_equal(found.exhausted, ~found.success if name in STOPPING else [False] * 6)


@pytest.mark.parametrize("top", [1, 2])
@pytest.mark.parametrize("name", OF_ANY)
def test_what_is_found_is_what_a_network_names(name, top):
    model, y = network(X, jnp.arange(6) % 4, top), jnp.array([0, 2, 1, 3, 2, 0])
    found = OF_ANY[name](KEY, model, X, y)
    promised(model, X, y, found)
    assert found.success.any()


@pytest.mark.parametrize("name", OF_ANY | OF_ROWS)
def test_where_no_gradient_was_more_than_zero_it_is_told(name):
    """Features in steps, whose slope is zero; the last image is wrong without an attack."""
    model = rows(1, 12, coarse, k=1)
    x = model.images[:6]
    y = jnp.where(jnp.arange(6) == 5, (model.labels[:6] + 1) % 3, model.predict(x))
    found = (OF_ANY | OF_ROWS)[name](KEY, model, x, y)
    promised(model, x, y, found)
    np.testing.assert_array_equal(found.no_gradient, [name != "boundary"] * 5 + [False])
    if name not in ("boundary", "minimum_norm l2", "minimum_norm linf"):  # which start elsewhere too
        assert not found.success[:5].any() or name.startswith("pgd") or name in ("ask", "dknn")


def test_no_gradient_is_told_of_a_networks_logits_and_of_an_imitation():
    model = rows(1, 12, k=1)
    votes = Partial(lambda model, x: model.votes(x).astype(jnp.float32), model)
    hard, x = classifiers.network(votes, X), model.images[:2]
    y = model.predict(x)
    found = attacks.carlini_wagner(KEY, hard, x, y, **SHORT)
    np.testing.assert_array_equal(found.no_gradient, [True, True])
    np.testing.assert_array_equal(found.exhausted, [True, True])
    found = attacks.adv_knn(KEY, model, x, y, imitation=hard, eps=0.1, steps=2)
    np.testing.assert_array_equal(found.no_gradient, [True, True])


def test_a_gradient_that_is_no_number_is_none():
    model = network(X, None)
    y = model.predict(X)
    loss = Partial(lambda x, y: jnp.sqrt(-jnp.abs(flat(x))).sum(1))
    found = attacks.pgd(KEY, model, X, y, eps=0.1, steps=2, loss=loss)
    assert found.no_gradient.all()
    promised(model, X, y, found)


@pytest.mark.parametrize("name", OF_ANY | OF_ROWS)
def test_what_cannot_be_fooled_runs_out_of_steps(name):
    """Of three neighbours at most one is the only row of class 1."""
    images = jnp.linspace(0.1, 0.9, 10)[:, None, None, None] * jnp.ones((1, *SHAPE))
    model = classifiers.knn(flat, images, jnp.array([0] * 9 + [1]), k=3)
    y = jnp.array([0, 1], jnp.int32)
    found = (OF_ANY | OF_ROWS)[name](KEY, model, jnp.full((2, *SHAPE), 0.8), y)
    np.testing.assert_array_equal(found.success, [False, True])
    np.testing.assert_array_equal(found.exhausted, [name in STOPPING, False])


def test_deepfool_leaves_the_source_behind_where_the_model_is_not_yet_fooled():
    """The means of the classes are fooled long before the neighbours."""
    model, x, y = victims.digits()
    means = np.stack(
        [np.asarray(model.banks[0])[np.asarray(model.labels) == c].mean(0) for c in range(10)]
    )
    parameters = jnp.asarray(2 * means.T), -jnp.sum(jnp.asarray(means) ** 2, 1)[None]
    source = classifiers.network(Partial(linear, parameters), x)
    found = attacks.deepfool(KEY, model, x, y, source=source, steps=40)
    assert found.success.all()
    assert not found.exhausted.any()


@pytest.mark.parametrize("attack", [attacks.FGSM, attacks.IFGSM])
def test_a_change_of_pixels_beyond_the_box_is_refused(attack):
    with pytest.raises(ValueError, match=r"largest=8\.0: .* 8/255"):
        attack(largest=8.0)
    with pytest.raises(ValueError, match=r"largest=1\.5"):
        attack(largest=1.5)


def test_a_ball_wider_than_the_box_is_allowed_in_l2_and_not_known_to_a_tracer():
    model, y = rows(1, 12, k=1), jnp.zeros(6, jnp.int32)
    for norm in ("l2", "linf"):
        run = partial(attacks.pgd, KEY, model, X, y, norm=norm, steps=1)
        assert jax.eval_shape(lambda eps, run=run: run(eps=eps), 8.0).norm.shape == (6,)
    assert jax.eval_shape(partial(attacks.pgd, norm="l2", eps=1.5), KEY, model, X, y).norm.shape == (6,)


def rooted(x):
    """Logits of two classes that are no numbers, nor is their slope, where the first pixel is above .6:
    there no class is named."""
    first = flat(x)[:, :1]
    return jnp.concatenate([jnp.sqrt(0.6 - first), 0.2 * first], 1)


@pytest.mark.parametrize("attack", ["pgd linf", "pgd l2", "ifgsm", "deepfool l2"])
def test_what_is_fooled_stays_an_image_where_it_has_no_gradient(attack):
    x = jnp.array([[0.5, 0.5, 0.2, 0.9], [0.55, 0.2, 0.1, 0.8]]).reshape(2, *SHAPE)
    y = jnp.zeros(2, jnp.int32)
    model = classifiers.network(rooted, x, jnp.array([0, 1]))
    found = OF_ANY[attack](KEY, model, x, y)
    assert found.success.all()
    assert np.isfinite(found.image).all()
    assert not model.right(found.image, y).any()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_minimum_norm_gets_away_from_an_equal_row_that_is_outvoted(norm):
    """Its nearest row of another class is the image itself, at distance 0."""
    images = jnp.array([0.4, 0.41, 0.39, 0.6, 0.61, 0.59])[:, None, None, None] * jnp.ones((1, *SHAPE))
    labels = jnp.array([1, 0, 0, 1, 1, 1])
    model = classifiers.knn(None, images, labels, k=3)
    found = attacks.minimum_norm(KEY, model, images[:1], labels[1:2], norm=norm, steps=60)
    assert found.success.all()
    assert found.norm[0] < 0.3
