"""Values that the papers fix, each with its place: whoever changes one by accident fails here.

Where a value acts in a way that can be measured, what it does is tested; the rest is a table.
"""

import dataclasses
import inspect
import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knn_jax import augment, config, data, defenses, nets, prototypes, training, validation
from knn_jax.defenses import Batch, Defense, generators
from knn_jax.defenses.soft_neighbors import TEMPERATURE
from knn_jax.nets import idresnet, normalised, preact_resnet

pytestmark = pytest.mark.usefixtures("trains", "quick")
CONFIGS = Path(__file__).parents[1] / "configs"


def defaults(function):
    given = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in given if p.default is not p.empty}


# What a method takes unless told otherwise, and the place that says so.
METHODS = {
    "Qian & Wegman 2019 (paper 3), section 3: K mu, lambda, l_0, 2X - 5 of X ~ B(5, .5)": [
        (defaults(defenses.idresnet), {"pull": 0.25, "decay": 0.5, "near": 7.0, "noise": "binomial"}),
        (defaults(defenses.noisy), {"noise": "binomial"}),
        (idresnet.WIDTHS["cifar10"], 2048),
        (idresnet.DECODERS, 3),
    ],
    "Wang et al. 2022 (paper 4), appendix D: lambda = 1, tau = .1": [
        (defaults(defenses.ask), {"weight": 1.0, "temperature": 0.1}),
    ],
    "Zhang et al. 2019, whose code starts from .001 times a normal": [(generators.NOISE, 1e-3)],
    "Zhao & Cho 2018 (paper 2), section 5.1: N_MU = 5; N_CE is not told": [
        (defaults(defenses.racnn), {"ce_steps": 1, "mixup_steps": 5}),
    ],
    "paper 2, appendix A: 256 features, 64 hidden numbers; 512 and 128 of the network retrieved by": [
        (nets.racnn.SIZES["cifar10"], (256, (64,))),
        (nets.strided.HIDDEN["cifar10"], (512, 128)),
    ],
    "Sitawarin & Wagner 2019 (paper 1): exp(4.6) in the authors' network": [
        (round(TEMPERATURE), round(math.exp(4.6), -1)),
    ],
    "Serban et al. 2021 (paper 5), section 4: 100 steps of .01, D = ten times the classes": [
        ((prototypes.STEPS, prototypes.RATE), (100, 0.01)),
        (nets.prototypes.DIMS, 10),
    ],
    "Rice et al. 2020: PGD-10 by 2/255 within 8/255": [
        ((validation.STEPS, validation.STEP), (10, 0.25)),
    ],
    "paper 1, the authors' loader: pad 4, RandomAffine(5, .1, .9 to 1.1, shear 5), brightness .1": [
        ((augment.CROP, augment.MOVE, augment.SCALE, augment.BRIGHTNESS), (4, 0.1, 0.1, 0.1)),
        ((augment.TURN, augment.SHEAR), (math.radians(5),) * 2),
    ],
    "PyTorch's normalisation, of which all authors' networks are made": [(normalised.EPSILON, 1e-5)],
    "paper 1, the authors' network: mean and deviation of CIFAR-10": [
        (preact_resnet.SIZES["cifar10"][1:], ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))),
    ],
}


@pytest.mark.parametrize("place", METHODS)
def test_a_method_has_the_values_of_its_paper(place):
    for found, expected in METHODS[place]:
        if isinstance(expected, dict):
            found = {name: found[name] for name in expected}
        assert found == expected


# Knobs that a recipe has unless it says otherwise.
KNOBS = {
    "paper 1, section 4.1, and its authors' loader": {
        "data": {"valid_fraction": 0.1, "split_seed": 2019, "train_images": 0, "size": 0},
        "optim": {"optimizer": "adam", "peak_lr": 1e-3, "batch_size": 128, "epochs": 15, "seed": 2019}
        | {"drops": (), "cycles": 0, "weight_decay": 0.0, "augment": "none", "stopping_eps": 0.0},
        "classifier": {"k": 75, "metric": "l2", "bank_rows": 0, "top": 1},
    },
    "paper 1, section 5 (L2: 40 steps of .1), its loss of SNN (weight 1), its authors' T of 4": {
        "defense": {"steps": 40, "step_size": 0.1, "weight": 1.0, "apart": 4.0, "eps": 0.0},
    },
    "paper 2, section 5.1": {"defense": {"neighbors": 10, "ce_steps": 1, "mixup_steps": 5}},
    "paper 3, section 3": {
        "defense": {"pull": 0.25, "decay": 0.5, "near": 7.0, "noise": "binomial"},
        "net": {"subspaces": 2, "dim": 15, "shared": True, "identity": True, "channels": 0},
    },
    "paper 4's code: 5 references of a class, AT beside it; Zhang et al. 2019: 1 / lambda = 6": {
        "defense": {"references": 5, "generator": "pgd", "beta": 6.0},
    },
}


@pytest.mark.parametrize("place", KNOBS)
def test_a_knob_has_the_value_of_its_paper(place):
    held = config.Config("")
    for section, knobs in KNOBS[place].items():
        found = dataclasses.asdict(getattr(held, section))
        assert {name: found[name] for name in knobs} == knobs


PAPER_3 = {
    "net": {"subspaces": 2, "dim": 15, "shared": True, "identity": True},
    "defense": {"noise": "binomial", "decay": 0.5, "near": 7.0},
    "optim": {"epochs": 20, "batch_size": 2048},
    "classifier": {"k": 800, "metric": "subspaces"},
    "ball": {"steps": 30, "step_size": 0.1},
}
PAPER_4 = {
    "defense": {"layers": ("conv4",), "adversary": "linf", "generator": "pgd", "steps": 10}
    | {"weight": 1.0, "temperature": 0.0, "references": 5},
    "optim": {"optimizer": "sgd", "peak_lr": 0.1, "epochs": 200, "drops": (100,), "batch_size": 128}
    | {"weight_decay": 2e-4, "augment": "crop"},
    "classifier": {"layers": ("conv3", "conv4"), "k": 5},
    "ball": {"steps": 20, "temperature": 0.03, "epochs": 100},
}
PAPER_5 = {
    "defense": {"name": "repulsive"},
    "optim": {"peak_lr": 0.02, "cycles": 1, "stopping_eps": 8 / 255},
    "classifier": {"name": "prototypes", "k": 1},
    "ball": {"steps": 100},
}
ROBUST = {"guided_constant": 0.1, "guided_steps": 1000, "guided_rate": 0.1, "guided_guides": 100}
# Recipe, what the paper or its authors' code say of it, and where.
RECIPES = [
    ("mnist_basic", {"classifier": {"k": 75}}, "paper 1, section 4.1"),
    (
        "mnist_basic",
        {"attack": ROBUST | {"guided_constant": 1e-3, "guided_steps": 500}},
        "paper 1, appendix: m = 100, c = 1e-3, rate .1, 500 steps",
    ),
    *(
        (name, {"attack": ROBUST}, "paper 1, appendix: c = .1, 1,000 steps on robust networks")
        for name in (
            *("mnist_autoencoder", "mnist_l2_adv", "mnist_linf_adv"),
            *("mnist_l2_adv_autoencoder", "mnist_l2_adv_rotation"),
        )
    ),
    *(
        (name, {"defense": {"adversary": norm, "steps": steps, "step_size": size, "eps": eps}}, place)
        for name, norm, steps, size, eps, place in (
            ("mnist_linf_adv", "linf", 40, 0.01, 0.3, "paper 1, section 5"),
            ("mnist_l2_adv", "l2", 40, 0.1, 0.0, "paper 1, section 5"),
            ("mnist_l2_adv_autoencoder", "l2", 40, 0.1, 0.0, "paper 1, section 5"),
            ("mnist_l2_adv_rotation", "l2", 20, 0.05, 0.0, "paper 1, section 5"),
            ("cifar10_l2_adv", "l2", 8, 0.05, 0.0, "paper 1, section 5.3"),
        )
    ),
    ("mnist_soft_neighbors", {"defense": {"weight": 1.0}}, "paper 1, section 4.1"),
    ("mnist_lipschitz", {"classifier": {"k": 1}, "optim": {"batch_size": 256}}, "paper 1, section 6"),
    (
        "cifar10_resnet",
        {
            "optim": {"epochs": 120, "drops": (50, 70, 90), "weight_decay": 1e-4, "augment": "affine"},
            "attack": {"guided_constant": 1e-5, "guided_rate": 0.01},
        },
        "paper 1's authors' train_cifar10.py; its appendix",
    ),
    (
        "cifar10_l2_adv",
        {
            "optim": {"epochs": 200, "drops": (80, 120, 160), "weight_decay": 0.0, "augment": "affine"},
            "attack": {"guided_constant": 1e-3, "guided_rate": 0.01},
        },
        "paper 1's authors' script; its appendix",
    ),
    *(
        (
            name,
            {"defense": {"neighbors": 10, "mixup_steps": 5}, "classifier": {"k": 10, "top": top}},
            place,
        )
        for name, top, place in (
            ("cifar10_racnn", 1, "paper 2, section 5.1"),
            ("svhn_racnn", 1, "paper 2, section 5.2"),
            ("imagenet_racnn", 5, "paper 2, section 5.3: accuracy@5"),
        )
    ),
    ("cifar10_racnn", {"optim": {"optimizer": "adam"}}, "paper 2, section 5.1"),
    ("cifar10_idresnet", PAPER_3, "paper 3, section 3"),
    ("mnist_idresnet", PAPER_3, "paper 3, section 3"),
    ("cifar10_ask", PAPER_4, "paper 4, appendix D, and its authors' ask_train.py"),
    ("imagenette_ask", PAPER_4, "paper 4, appendix D, and its authors' ask_train.py"),
    (
        "cifar10_ask",
        {
            "defense": {"eps": 4 / 255, "eps_ask": 8 / 255, "step_size": 2 / 255},
            "classifier": {"bank_rows": 20_000},
        },
        "paper 4, appendix D",
    ),
    (
        "imagenette_ask",
        {"defense": {"eps": 2 / 255}, "classifier": {"bank_rows": 8500}},
        "paper 4, appendix D",
    ),
    ("cifar10_repulsive", PAPER_5 | {"optim": {"epochs": 127, **PAPER_5["optim"]}}, "paper 5, Table 2"),
    (
        "cifar100_repulsive",
        PAPER_5 | {"optim": {"epochs": 106, **PAPER_5["optim"]}},
        "paper 5, Table 3",
    ),
]


@pytest.mark.parametrize(("name", "knobs", "place"), RECIPES, ids=lambda v: v if type(v) is str else "")
def test_a_recipe_has_the_values_of_its_paper(name, knobs, place):
    recipe = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()
    for section, wanted in knobs.items():
        found = dataclasses.asdict(getattr(recipe, section))
        assert {knob: found[knob] for knob in wanted} == wanted, place


# What the optimisers do, against the updates of their papers in float64.


def parabola():
    """w^2 / 2 of one number, whose gradient is w."""
    return Defense(
        lambda key, x: {"w": jnp.ones(())},
        lambda variables, key, batch: jnp.broadcast_to(jnp.square(variables["w"]) / 2, len(batch.y)),
        None,
    )


def by_sgd(steps, rate, decay):
    """As PyTorch has it: decay added to the gradient, Nesterov's momentum of .9."""
    w, moved = 1.0, 0.0
    for _ in range(steps):
        gradient = w + decay * w
        moved = 0.9 * moved + gradient
        w -= rate * (gradient + 0.9 * moved)
    return w


def by_adam(steps, rate, decay):
    """Kingma & Ba 2015, algorithm 1, with its constants."""
    w, first, second = 1.0, 0.0, 0.0
    for step in range(1, steps + 1):
        gradient = w + decay * w
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        w -= rate * (first / (1 - 0.9**step)) / (math.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return w


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize(("optimizer", "by_hand"), [("sgd", by_sgd), ("adam", by_adam)])
def test_steps_are_those_of_the_optimizer(tmp_path, optimizer, by_hand, decay):
    digits = data.load(config.Data())
    one = digits._replace(train=data.Split(*(part[:1] for part in digits.train)))
    knobs = config.Optim(optimizer=optimizer, peak_lr=0.1, batch_size=1, epochs=4, weight_decay=decay)
    found = training.train(parabola(), one, knobs, tmp_path)
    np.testing.assert_allclose(found["w"], by_hand(4, 0.1, decay), rtol=1e-5)


# What a recipe's knobs build.


def test_a_recipe_of_ask_has_the_papers_defaults(monkeypatch):
    """A ball of twice the adversary's, and tau = .1 (paper 4: 8/255 beside 4/255)."""
    given = {}
    monkeypatch.setattr(defenses, "ask", lambda *_, **knobs: given.update(knobs))
    monkeypatch.setattr(defenses, "trained", lambda *_: parabola())
    knobs = config.Defense(name="ask", layers=("conv4",), adversary="linf", eps=4 / 255)
    defenses.build(knobs, None)
    assert given["eps"] == 8 / 255
    assert (given["temperature"], given["weight"]) == (0.1, 1.0)


@pytest.mark.parametrize(("name", "stages"), [("input_mixup", 1), ("manifold_mixup", 5)])
def test_mixup_draws_from_the_papers_layers(monkeypatch, name, stages):
    """Of images alone, or before any of three convolutions, the linear layer and the loss."""
    given = []
    monkeypatch.setattr(defenses, "mixup", lambda net, stages: given.append(stages) or parabola())
    defenses.build(config.Defense(name=name), nets.build(config.Net("mnist"), 10))
    assert given == [stages]


@pytest.mark.parametrize(
    ("norm", "eps", "deviation", "most"), [("l2", 0.0, 0.05, 0.3), ("linf", 0.2, 0.2 / 3**0.5, 0.2)]
)
def test_adversarial_training_starts_from_the_papers_noise(norm, eps, deviation, most):
    """Normal, of a step's deviation in each pixel, or uniform in the ball (paper 1's code)."""
    seen = []

    def loss(variables, key, batch):
        seen.append(batch.x - batch.clean)
        return jnp.zeros(len(batch.y))

    defense = defenses.adversarial(
        Defense(lambda *_: {}, loss, None), norm, eps, steps=0, step_size=0.05
    )
    x = jnp.full((2, 100, 100, 1), 0.5)
    defense.loss({}, jax.random.key(0), Batch(x, x, jnp.zeros(2, jnp.int32), jnp.ones(2, bool)))
    noise = np.asarray(seen[-1])
    np.testing.assert_allclose(noise.std(), deviation, rtol=0.03)
    assert 0.95 * min(most, 0.2) < np.abs(noise).max() <= most


def test_half_of_the_hidden_numbers_are_dropped_from_the_papers_vgg():
    """One number of each of 4,000 images (paper 4's authors' VGG16)."""
    net = nets.vgg.VGG(((1, 1),), (1,), 1)
    x = jnp.ones((4000, 2, 2, 1))
    variables = jax.tree.map(jnp.ones_like, net.init(jax.random.key(0), x))
    keys = {"dropout": jax.random.key(1)}
    (logits, _), _ = net.apply(variables, x, jnp.ones(4000, bool), rngs=keys, mutable=["batch_stats"])
    np.testing.assert_allclose((logits == logits.min()).mean(), 0.5, atol=0.03)


@pytest.mark.parametrize(
    ("make", "fan", "variance"),
    [
        (nets.trunk.HE, 9 * 64, 2.0),  # He et al. 2015 over the fan-out, as paper 1's authors have it
        (normalised.UNIFORM, 9 * 32, 1 / 3),  # PyTorch's default over the fan-in
    ],
)
def test_kernels_begin_as_the_authors_do(make, fan, variance):
    kernel = make(jax.random.key(0), (3, 3, 32, 64), jnp.float32)
    np.testing.assert_allclose(kernel.var(), variance / fan, rtol=0.05)


def test_dense_layers_begin_as_pytorchs():
    """Uniform within 1 / sqrt(inputs), kernel and bias."""
    kernel = nets.convolution.torch_uniform(400)(jax.random.key(0), (400, 100), jnp.float32)
    assert 0.99 / 20 < jnp.abs(kernel).max() <= 1 / 20
    np.testing.assert_allclose(kernel.var(), 1 / 400 / 3, rtol=0.05)
