"""Attacks at fixed radii: chunks, trials, what is chosen beforehand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knn_jax import attacks, config, data, fixed, kinds, recipes

pytestmark = pytest.mark.usefixtures("quick")
RADII = (0.05, 0.3)


@pytest.fixture(scope="module")
def recipe():
    """The digits' pixels."""
    return config.Config(
        name="fixed",
        net=config.Net(name="pixels"),
        classifier=config.Classifier(layers=("pixels",), k=3, bank_rows=100),
        attack=config.Attack(images=3, norms=("linf",), radii_linf=RADII, chunk=2),
        ball=config.Ball(steps=2, trials=2, epochs=1),
    )


@pytest.fixture(scope="module")
def defended(recipe, quick, tmp_path_factory):
    dataset = data.load(recipe.data)
    return recipes.defend(recipe, dataset, tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="module")
def found(recipe, defended, tmp_path_factory):
    folder = tmp_path_factory.mktemp("found")
    assert fixed.attack(recipe, defended, kinds.Run("ask", "linf"), folder, run=False) is None
    return fixed.attack(recipe, defended, kinds.Run("ask", "linf"), folder), folder


def test_an_image_falls_at_the_least_radius_at_which_the_attack_fools_it(recipe, defended, found):
    arrays, model, test = found[0].arrays, defended.model, defended.dataset.test
    x, y = jnp.asarray(test.floats(0, 3)), jnp.asarray(test.labels[:3])
    wrong = np.asarray(model.margin(x, y) <= 0)
    fooled = np.asarray(model.margin(jnp.asarray(arrays["image"]), y) <= 0)
    np.testing.assert_array_equal(arrays["success"], fooled)
    np.testing.assert_array_equal(np.isfinite(arrays["norm"]), fooled)
    assert (arrays["norm"][fooled] <= np.float32(RADII[-1])).all()
    np.testing.assert_array_equal(arrays["norm"] == 0, wrong)
    np.testing.assert_array_equal(arrays["norm"], arrays["trials"][:, 0])
    assert arrays["trials"].shape == (3, 2)
    told = arrays["information_clean"] >= arrays["information_adversarial"]
    assert told[fooled & ~wrong].all()
    votes = np.asarray(dataclasses.replace(model, k=50).votes(x))
    np.testing.assert_allclose(arrays["confidence"], votes.max(1) / 50)
    key = jax.random.split(jax.random.fold_in(jax.random.key(recipe.attack.seed), 0), 2)[0]
    norms = []
    for eps in RADII:
        settings = {"steps": 2, "step_size": jnp.float32(0.25) * jnp.float32(eps)}
        norms.append(attacks.ask(key, model, x[:2], y[:2], eps=eps, **settings).norm)
    expected = np.minimum(*norms)
    np.testing.assert_allclose(arrays["norm"][:2], expected, rtol=1e-5)


def test_what_was_computed_is_found_again(recipe, defended, found, monkeypatch):
    outcome, folder = found
    monkeypatch.setattr(fixed, "_prepared", None)  # nothing is prepared for it
    again = fixed.attack(recipe, defended, kinds.Run("ask", "linf"), folder, run=False)
    for name, array in outcome.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)
    other = dataclasses.replace(recipe, ball=dataclasses.replace(recipe.ball, steps=3))
    assert fixed.attack(other, defended, kinds.Run("ask", "linf"), folder, run=False) is None


def test_temperature_and_weights_are_chosen_and_kept(recipe, defended, tmp_path, monkeypatch):
    seen = {}

    def tune(key, model, x, y, *, source, eps, **settings):
        seen.update(images=len(x), taps=len(source.banks), eps=eps, k=settings["k"])
        return jnp.array([0.5, 0.25]), jnp.array([0.0, 1.0])

    monkeypatch.setattr(attacks, "tune", tune)
    ball = dataclasses.replace(recipe.ball, tune=2, layers=("pixels", "pixels"), k=2)
    gray = dataclasses.replace(recipe, ball=ball)
    arrays = fixed.attack(gray, defended, kinds.Run("ask", "linf"), tmp_path).arrays
    assert seen == {"images": 2, "taps": 2, "eps": RADII[1], "k": 2}
    np.testing.assert_array_equal(arrays["temperature"], np.tile(np.float32([0.5, 0.25]), (3, 1)))
    np.testing.assert_array_equal(arrays["weights"], np.tile(np.float32([0, 1]), (3, 1)))
    y = jnp.asarray(defended.dataset.test.labels[:3])
    fooled = defended.model.margin(jnp.asarray(arrays["image"]), y) <= 0
    np.testing.assert_array_equal(arrays["success"], fooled)


@pytest.mark.parametrize("name", ["pgd", "dknn", "adv_knn"])
def test_the_other_attacks_stay_in_their_radii(name, recipe, defended, tmp_path):
    one = dataclasses.replace(recipe, ball=dataclasses.replace(recipe.ball, trials=1))
    arrays = fixed.attack(one, defended, kinds.Run(name, "linf"), tmp_path).arrays
    y = jnp.asarray(defended.dataset.test.labels[:3])
    fooled = defended.model.margin(jnp.asarray(arrays["image"]), y) <= 0
    np.testing.assert_array_equal(arrays["success"], fooled)
    assert (arrays["norm"][arrays["success"]] <= np.float32(RADII[-1])).all()
    assert arrays["gradients"].tolist() == [4] * 3  # two radii, two steps


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"steps": 0}, "ball.steps=0: it must be above 0"),
        ({"trials": 0}, "ball.trials=0: it must be above 0"),
        ({"temperature": 0.0}, "ball.temperature=0.0: it must be above 0"),
        ({"temperature": 0.3, "tune": 5}, "ball.temperature=0.3 beside ball.tune=5: give one"),
        ({"refresh_ask": -1}, "ball.refresh_ask=-1: it must not be below 0"),
        ({"tune": 361}, "ball.tune=361: the test set has 360 images"),
        ({"k": 101}, "ball.k=101 asked of a bank of 100 rows"),
    ],
)
def test_what_cannot_be_given_is_refused(recipe, defended, knobs, message):
    ball = dataclasses.replace(recipe.ball, **knobs)
    with pytest.raises(ValueError, match=message):
        fixed.check(dataclasses.replace(recipe, ball=ball), defended.dataset)


def test_what_draws_nothing_is_not_repeated(recipe, defended):
    knobs = dataclasses.replace(recipe, attack=dataclasses.replace(recipe.attack, names=("kfgsm",)))
    with pytest.raises(ValueError, match=r"ball\.restarts=1, trials=2: kfgsm draws nothing, so give 1"):
        fixed.check(knobs, defended.dataset)


@pytest.mark.parametrize("radii", [(), (0.1, -0.1)])
def test_radii_that_are_none_are_refused(recipe, defended, radii):
    knobs = dataclasses.replace(recipe.attack, names=("pgd",), radii_linf=radii)
    with pytest.raises(ValueError, match=r"attack\.radii_linf=.*: pgd needs radii of 0 or more"):
        fixed.check(dataclasses.replace(recipe, attack=knobs), defended.dataset)
