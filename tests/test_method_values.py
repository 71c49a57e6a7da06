"""Values that the papers fix, each with its place: whoever changes one by accident fails here.

Where a value acts in a way that can be measured, what it does is tested; the rest is a table.
"""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from some_digits import digits as load_digits

from knn_jax import data, defenses, nets, training
from knn_jax.data import augment
from knn_jax.defenses import mixup, robust_loss
from knn_jax.defenses.repulsive import DIMS
from knn_jax.nets import batch_norm, convnet, convolution, idresnet, repulsion
from knn_jax.training import Batch, Objective, References, early_stopping

pytestmark = pytest.mark.usefixtures("trains", "quick")


def defaults(function):
    given = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in given if p.default is not p.empty}


# What a method takes unless told otherwise, and the place that says so.
METHODS = {
    "Qian, An & Su, IdResNet, section 3: K mu, lambda, l_0, 2X - 5 of X ~ B(5, 0.5)": [
        (defaults(defenses.IdResNet), {"pull": 0.25, "decay": 0.5, "near": 7.0, "noise": "binomial"}),
        (defaults(defenses.Noisy), {"noise": "binomial"}),
        (nets.cifar10_idresnet().width, 2048),
        (idresnet.DECODERS, 3),
        (defaults(nets.IdResNet), {"subspaces": 2, "dim": 15, "shared": True, "identity": True}),
        (defaults(nets.IdResNet), {"channels": None}),
    ],
    "Wang et al. 2021 (ASK), appendix D: lambda = 1, tau = 0.1; 5 references in its code": [
        (defaults(defenses.ASK), {"weight": 1.0, "temperature": 0.1, "references": 5}),
        (type(defaults(defenses.ASK)["beside"]), defenses.AdversarialCrossEntropy),
    ],
    "Zhang et al. 2019, whose code starts from 0.001 times a normal; 1 / lambda = 6": [
        (robust_loss.NOISE, 1e-3),
        (defaults(defenses.TradesLoss), {"beta": 6.0}),
        (defaults(defenses.Trades), {"beta": 6.0}),
    ],
    "Zhao & Cho 2018, section 5.1: K = 10, N_MU = 5; N_CE is not told": [
        (defaults(defenses.RaCNN), {"neighbors": 10, "ce_steps": 1, "mixup_steps": 5}),
    ],
    "the same, appendix A: 256 features, 64 hidden numbers; 512 and 128 of the one retrieved by": [
        ((nets.cifar10_racnn().dim, nets.cifar10_racnn().hidden), (256, (64,))),
        (nets.cifar10_all_conv().hidden, (512, 128)),
    ],
    "Sitawarin & Wagner 2019: exp(4.6) in the authors' network, weight 1; 40 steps of 0.1; T of 4": [
        (round(defaults(defenses.SoftNeighbors)["temperature"]), round(math.exp(4.6), -1)),
        (defaults(defenses.SoftNeighbors), {"weight": 1.0}),
        (defaults(training.Adversary), {"steps": 40, "step_size": 0.1, "eps": None}),
        (defaults(defenses.LipschitzAutoencoder), {"weight": 1.0, "apart": 4.0}),
    ],
    "the same, section 4.1, and its authors' loader": [
        (
            defaults(training.Optim),
            {"optimizer": "adam", "peak_lr": 1e-3, "batch_size": 128, "epochs": 15, "seed": 2019}
            | {"drops": (), "cycles": 0, "weight_decay": 0.0, "augment": "none", "stopping_eps": None},
        ),
        (defaults(data.Digits), {"valid_fraction": 0.1, "split_seed": 2019, "train_images": 0}),
        ((augment.CROP, augment.MOVE, augment.SCALE, augment.BRIGHTNESS), (4, 0.1, 0.1, 0.1)),
        ((augment.TURN, augment.SHEAR), (math.radians(5),) * 2),
        (nets.cifar10_preact_resnet().mean, (0.4914, 0.4822, 0.4465)),
        (nets.cifar10_preact_resnet().std, (0.2023, 0.1994, 0.2010)),
    ],
    "Serban et al. 2021, section 4: 100 steps of 0.01, D = ten times the classes": [
        ((repulsion.STEPS, repulsion.RATE), (100, 0.01)),
        (DIMS, 10),
        (defaults(defenses.Repulsive), {"dim": None}),
    ],
    "Rice et al. 2020: PGD-10 by 2/255 within 8/255": [
        ((early_stopping.STEPS, early_stopping.STEP), (10, 0.25)),
    ],
    "PyTorch's normalisation, of which all authors' networks are made": [(batch_norm.EPSILON, 1e-5)],
}


@pytest.mark.parametrize("place", METHODS)
def test_a_method_has_the_values_of_its_paper(place):
    for found, expected in METHODS[place]:
        if isinstance(expected, dict):
            found = {name: found[name] for name in expected}
        assert found == expected


# What the optimisers do, against the updates of their papers in float64.


def parabola():
    """w^2 / 2 of one number, whose gradient is w."""
    return Objective(
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
    digits = load_digits()
    one = digits._replace(train=data.Split(*(part[:1] for part in digits.train)))
    knobs = training.Optim(optimizer=optimizer, peak_lr=0.1, batch_size=1, epochs=4, weight_decay=decay)
    found = training.train(parabola(), one, knobs, tmp_path)
    np.testing.assert_allclose(found["w"], by_hand(4, 0.1, decay), rtol=1e-5)


# What knobs come to.


def test_ask_has_the_papers_ball():
    """Twice the adversary's (Wang et al. 2021: 8/255 beside 4/255)."""
    adversary = training.Adversary("linf", 4 / 255, 1, 1.0)
    ask = defenses.ASK(nets.digits_vgg(), ("flat",), adversary, references=1)
    x = jnp.full((1, 2, 2, 1), 0.5)
    rows = jnp.asarray(np.random.default_rng(0).uniform(0.1, 0.9, (3, 1, 2, 2, 1)), jnp.float32)
    beside = References(rows, jnp.arange(3)[:, None])
    batch = Batch(x, x, jnp.zeros(1, jnp.int32), jnp.ones(1, bool), beside)

    def forward(z):
        return z.reshape(len(z), 4)[:, :3], {"flat": z.reshape(len(z), 4)}

    (robust, _), (own, _), _ = ask.forwarded().inputs(forward, jax.random.key(0), batch)
    assert 0 < jnp.abs(robust - x).max() <= 4 / 255 + 1e-6
    np.testing.assert_allclose(jnp.abs(own - x).max(), 8 / 255, rtol=1e-5)


@pytest.mark.parametrize(("kind", "stages"), [("InputMixup", 1), ("ManifoldMixup", 5)])
def test_mixup_draws_from_the_papers_layers(monkeypatch, kind, stages):
    """Of images alone, or before any of three convolutions, the linear layer and the loss."""
    given = []
    monkeypatch.setattr(mixup, "mixed", lambda module, stages: given.append(stages) or parabola())
    defense = getattr(defenses, kind)(nets.mnist_convnet())
    defense.objective(defense.module(10))
    assert given == [stages]


@pytest.mark.parametrize(
    ("norm", "eps", "deviation", "most"), [("l2", None, 0.05, 0.3), ("linf", 0.2, 0.2 / 3**0.5, 0.2)]
)
def test_adversarial_training_starts_from_the_papers_noise(norm, eps, deviation, most):
    """Normal, of a step's deviation a pixel, or uniform in the ball (Sitawarin & Wagner)."""
    seen = []

    def loss(variables, key, batch):
        seen.append(batch.x - batch.clean)
        return jnp.zeros(len(batch.y))

    # One step that goes nowhere, for this loss has no slope.
    adversary = training.Adversary(norm, eps, steps=1, step_size=0.05)
    defense = defenses.adversarial(Objective(lambda *_: {}, loss, None), adversary)
    x = jnp.full((2, 100, 100, 1), 0.5)
    defense.loss({}, jax.random.key(0), Batch(x, x, jnp.zeros(2, jnp.int32), jnp.ones(2, bool)))
    noise = np.asarray(seen[-1])
    np.testing.assert_allclose(noise.std(), deviation, rtol=0.03)
    assert 0.95 * min(most, 0.2) < np.abs(noise).max() <= most


def test_half_of_the_hidden_numbers_are_dropped_from_the_papers_vgg():
    """One number of each of 4,000 images (the VGG16 of the authors of ASK)."""
    net = nets.VGG(((1, 1),), (1,)).build(1)
    x = jnp.ones((4000, 2, 2, 1))
    variables = jax.tree.map(jnp.ones_like, net.init(jax.random.key(0), x))
    keys = {"dropout": jax.random.key(1)}
    (logits, _), _ = net.apply(variables, x, jnp.ones(4000, bool), rngs=keys, mutable=["batch_stats"])
    np.testing.assert_allclose((logits == logits.min()).mean(), 0.5, atol=0.03)


@pytest.mark.parametrize(
    ("make", "fan", "variance"),
    [
        (convnet.HE, 9 * 64, 2.0),  # He et al. 2015 over the fan-out, as Sitawarin & Wagner have it
        (batch_norm.UNIFORM, 9 * 32, 1 / 3),  # PyTorch's default over the fan-in
    ],
)
def test_kernels_begin_as_the_authors_do(make, fan, variance):
    kernel = make(jax.random.key(0), (3, 3, 32, 64), jnp.float32)
    np.testing.assert_allclose(kernel.var(), variance / fan, rtol=0.05)


def test_dense_layers_begin_as_pytorchs():
    """Uniform within 1 / sqrt(inputs), kernel and bias."""
    kernel = convolution.torch_uniform(400)(jax.random.key(0), (400, 100), jnp.float32)
    assert 0.99 / 20 < jnp.abs(kernel).max() <= 1 / 20
    np.testing.assert_allclose(kernel.var(), 1 / 400 / 3, rtol=0.05)
