"""The numbers that a source fixes: what they are by default, and what steps follow from them."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from knn_jax import attacks, balls, classifiers, neighbors
from knn_jax.attacks import batches, bisection, constant_search

KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("quick")
DEFAULTS = {
    # Madry et al. 2018, from one random start
    attacks.pgd: {"norm": "linf", "steps": 20, "step_size": None, "restarts": 1, "refresh": 5},
    # Wang et al. 2021: 20 steps, references of x throughout, cosine, mean form, no target
    attacks.ask: {
        **{"norm": "linf", "steps": 20, "step_size": None, "restarts": 1, "refresh": 0},
        **{"k": None, "others": None, "metric": "cosine", "temperature": 0.03, "weights": None},
        **{"targeted": False, "drawn": False},
    },
    attacks.dknn: {"norm": "linf", "steps": 20, "step_size": None, "guides": None, "slope": 4.0},
    attacks.adv_knn: {"norm": "linf", "steps": 20, "step_size": None, "restarts": 1},
    # Qian, An & Su, sections 2.5 and 2.1
    attacks.kfgsm: {"norm": "linf", "steps": 30, "step_size": None, "decay": 0.5, "near": 7.0},
    # Sitawarin & Wagner 2019, appendix A, and their code of 2020
    attacks.guided: {
        **{"guides": 100, "constant": 1e-3, "learning_rate": 0.1, "steps": 500, "rounds": 10}
    },
    attacks.hinged: {
        **{"guides": 150, "constant": 0.1, "learning_rate": 0.1, "noise": 0.01, "steps": 1000},
        **{"rounds": 10, "refresh": 200, "starts": 1},
    },
    # arXiv 1906.09525, rows without kNN
    attacks.carlini_wagner: {
        **{"constant": 10.0, "learning_rate": 0.1, "steps": 500, "rounds": 10, "confidence": 0.0}
    },
    # Foolbox, which Zhao & Cho 2018 attacked with
    attacks.fgsm: {"norm": "l2", "sizes": 1000, "largest": 1.0, "temperature": 0.1},
    attacks.ifgsm: {"norm": "l2", "steps": 10, "sizes": 100, "largest": 1.0, "temperature": 0.1},
    attacks.deepfool: {
        **{"norm": "l2", "steps": 50, "candidates": 10, "overshoot": 0.02, "temperature": 0.1}
    },
    attacks.lbfgs: {"target": None, "constant": 1.0, "steps": 50, "rounds": 8, "temperature": 0.1},
    # Brendel et al. 2018 walk 5000 steps in their comparison with gradients
    attacks.boundary: {"steps": 5000, "starts": None},
    # Li et al. 2019 leave these open: ours
    attacks.imitate: {"epochs": 100, "width": 256, "batch_size": 128, "learning_rate": 1e-3},
    attacks.minimum_norm: {"norm": "l2", "steps": 40, "starts": 8, "refresh": 20},
    attacks.information: {"metric": "cosine", "temperature": 0.03, "weights": None},
}


@pytest.mark.parametrize("attack", DEFAULTS, ids=lambda attack: attack.__name__)
def test_the_defaults_are_their_sources(attack):
    parameters = inspect.signature(inspect.unwrap(attack)).parameters
    assert {name: parameters[name].default for name in DEFAULTS[attack]} == DEFAULTS[attack]


@pytest.mark.parametrize(
    ("function", "constants"),
    [
        # The shares of success are measured beside the paper's, see its docstring
        (attacks.boundary, {"ALONG": (0.3, 0.3), "TOWARDS": (0.1, 0.25), "TEST": 10, "DRAWN": 24}),
        (attacks.deepfool, {"BEYOND": 1e-4, "GROWTH": 0.1}),  # the first is Foolbox's
        (attacks.dknn, {"SAMPLE": 1000}),
        (attacks.hinged, {"SLACK": 1e-5}),
        (attacks.lbfgs, {"DECREASE": 1e-4}),  # Nocedal & Wright, Numerical Optimization
        (attacks.minimum_norm, {"BEYOND": 10, "SHARP": 0.1, "MOMENTUM": 0.75}),
        (bisection.bisect, {"BISECTIONS": 11}),
        (batches.references, {"SHARE": 67}),
        (constant_search.search, {"EDGE": 0.999999}),  # Carlini and Wagner's code
        (attacks.tune, {"TEMPERATURES": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0), "SHARES": 5}),
        (neighbors.ranks, {"ABSENT": 1e6}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_constants_are_their_sources(function, constants):
    home = inspect.getmodule(inspect.unwrap(function))
    assert {name: getattr(home, name) for name in constants} == constants


def flat(x):
    return x.reshape(len(x), -1)


def lines(weights, x):
    return flat(x) @ weights


def rows():
    """1-NN on pixels: dark rows are of class 0, bright ones of class 1."""
    images = jax.random.uniform(KEY, (8, 2, 2, 1)) * 0.1
    images = images.at[4:].add(0.8)
    return classifiers.knn(flat, images, jnp.arange(8) // 4, k=1)


UP = jnp.array([1.0, -2.0, 0.5, -0.25])


def ascend(x, y):
    return flat(x) @ UP


OF_STEPS = {  # what one step of an attack adds to where it starts, over eps
    "pgd": (partial(attacks.pgd, loss=Partial(ascend)), 20, 2.5 / 20),
    "pgd of 5 steps": (partial(attacks.pgd, loss=Partial(ascend), steps=5), 5, 2.5 / 5),
    "ask": (attacks.ask, 20, 1 / 4),
    "dknn": (attacks.dknn, 20, 1 / 4),
    "adv_knn": (
        partial(
            attacks.adv_knn,
            imitation=classifiers.Network(Partial(lines, jnp.stack([-UP, UP], 1)), 2),
        ),
        20,
        1 / 4,
    ),
    "kfgsm": (attacks.kfgsm, 30, 1 / 10),
}


@pytest.mark.parametrize("name", OF_STEPS)
def test_a_step_is_as_long_as_its_source_says(name, monkeypatch):
    """Every step, by the sizes that the projected steps are asked for."""
    attack, steps, share = OF_STEPS[name]
    sizes = []
    plain = balls.step

    def step(ball, clean, x, gradient, size):
        jax.debug.callback(lambda size: sizes.append(float(size)), size)
        return plain(ball, clean, x, gradient, size)

    monkeypatch.setattr(balls, "step", step)
    jax.clear_caches()
    x, y = jnp.full((1, 2, 2, 1), 0.05), jnp.array([0], jnp.int32)
    attack(KEY, rows(), x, y, eps=0.2)
    jax.effects_barrier()
    jax.clear_caches()
    np.testing.assert_allclose(sizes, np.full(steps, share * 0.2), rtol=1e-6)


def test_a_step_moves_each_pixel_by_its_size():
    """From the image itself, in a ball too large to matter."""
    model, y = rows(), jnp.array([1], jnp.int32)
    x = jnp.full((1, 2, 2, 1), 0.6)
    run = partial(attacks.kfgsm, KEY, model, x, y, eps=1.0, steps=1)
    found = run(step_size=0.55)  # from 0.6 to 0.05
    assert found.success.all()
    np.testing.assert_allclose(found.image, jnp.full((1, 2, 2, 1), 0.05), atol=1e-6)
    assert not run().success.any()  # by a tenth of eps


@pytest.mark.parametrize("name", ["knn", "network"])
def test_pgd_takes_soft_votes_at_temperature_1_where_rows_vote_and_else_at_a_tenth(name, monkeypatch):
    model, seen = rows(), []
    if name == "network":
        model = classifiers.network(Partial(lines, jnp.stack([-UP, UP], 1)), model.images)
    plain = type(model).soft_votes

    def soft_votes(self, x, references, temperature):
        jax.debug.callback(lambda value: seen.append(float(value)), temperature)
        return plain(self, x, references, temperature)

    monkeypatch.setattr(type(model), "soft_votes", soft_votes)
    jax.clear_caches()
    x, y = jnp.full((1, 2, 2, 1), 0.05), jnp.array([0], jnp.int32)
    attacks.pgd(KEY, model, x, y, eps=0.2, steps=2)
    jax.effects_barrier()
    jax.clear_caches()
    np.testing.assert_allclose(seen, [1.0 if name == "knn" else 0.1] * 2)


@pytest.mark.parametrize(("overshoot", "enough"), [(0.08, False), (0.12, True)])
def test_deepfool_asks_of_its_perturbation_and_the_overshoot(overshoot, enough):
    """One step to the source's boundary; that of the model is a tenth of the way beyond."""
    x, y = jnp.full((1, 2, 2, 1), 0.5), jnp.array([0], jnp.int32)
    lead = 0.3

    def logits(threshold, x):
        up = flat(x) @ UP[:, None] - threshold
        return jnp.concatenate([-up, up], 1)

    at = float(flat(x)[0] @ UP)
    source, model = (
        classifiers.network(Partial(logits, jnp.float32(at + share * lead)), x) for share in (1, 1.1)
    )
    found = attacks.deepfool(KEY, model, x, y, source=source, overshoot=overshoot, steps=1)
    np.testing.assert_array_equal(found.success, [enough])
    np.testing.assert_array_equal(found.exhausted, [not enough])


def test_hinged_descends_by_rmsprop_of_decay_99_hundredths():
    """Whose first step is the learning rate over the root of a hundredth."""
    images = jnp.array([0.4, 0.56])[:, None, None, None] * jnp.ones((1, 2, 2, 1))
    model, x = classifiers.knn(flat, images, jnp.arange(2), k=1), jnp.full((1, 2, 2, 1), 0.47)
    run = partial(attacks.hinged, guides=2, learning_rate=0.02, noise=0.0, steps=1, rounds=1)
    found = run(KEY, model, x, jnp.array([0], jnp.int32))
    assert found.success.all()
    np.testing.assert_allclose(
        found.image, constant_search.to_box(constant_search.from_box(x) + 0.2), rtol=1e-4
    )
