"""What every defense keeps to, on one list of values: a new defense is tested by adding it here."""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from some_digits import digits

from knn_jax import classifiers, defenses, neighbors, nets, values
from knn_jax.nets import STATISTICS
from knn_jax.training import Adversary, Batch, Optim, References

pytestmark = pytest.mark.usefixtures("trains", "quick")
L2 = Adversary("l2", 0.5, 2, 0.2)
LINF = Adversary("linf", 0.3, 2, 0.1)
CONVNET = nets.ConvNet(((4, 3, 2, 1), (6, 2, 2, 0)))
AUTOENCODER = nets.Autoencoder(CONVNET.layers, 16, 8)
VGG, IDRESNET = nets.digits_vgg(), nets.IdResNet(10, 1, 10)
RACNN = defenses.RaCNN(nets.digits_racnn(), nets.digits_all_conv(), "conv2", neighbors=4)
PERTURBABLE = [
    defenses.CrossEntropy(CONVNET),
    defenses.SoftNeighbors(CONVNET),
    defenses.Triplet(CONVNET),
    defenses.InputMixup(CONVNET),
    defenses.ManifoldMixup(CONVNET),
    defenses.Rotation(CONVNET),
    defenses.Autoencoder(AUTOENCODER),
    defenses.VAE(nets.VAE(CONVNET.layers, 16, 8)),
    defenses.LipschitzAutoencoder(nets.LipschitzAutoencoder(((6, 2), (8, 2)), 8, 16, sweeps=1)),
    defenses.IdResNet(IDRESNET, near=1.0, pull=1e-3),
    defenses.Noisy(IDRESNET),
    defenses.Repulsive(nets.AllConv(((4, 3, 2),), (8,)), dim=6),
    defenses.Prototypes(CONVNET, "relu2", 3),
]
DEFENSES = [
    *PERTURBABLE,
    *(dataclasses.replace(defense, adversary=L2) for defense in PERTURBABLE),
    defenses.CrossEntropy(nets.digits_preact_resnet()),
    defenses.SoftNeighbors(VGG, layers=("conv1",)),
    defenses.Trades(nets.digits_resnet(), LINF),
    defenses.ASK(VGG, ("conv1", "conv2"), LINF),
    defenses.ASK(VGG, ("conv1", "conv2"), LINF, beside=defenses.TradesLoss(beta=2.0)),
    dataclasses.replace(RACNN, mixup_steps=0),
    RACNN,
]
MASK = jnp.arange(8) % 3 != 1


def named(defense):
    """The defense's class and network, and what perturbs its images."""
    perturbed = " perturbed" if getattr(defense, "adversary", None) else ""
    return f"{type(defense).__name__}{perturbed} {type(defense.net).__name__}"


each = pytest.mark.parametrize("defense", DEFENSES, ids=named)


@functools.cache
def dataset():
    return digits()


def batch(defense, seed):
    """Eight digits, of which three only fill the batch: images and labels drawn by the seed."""
    rng, split = np.random.default_rng(seed), dataset().train
    x, y = jnp.asarray(split.floats(0, 8)), jnp.asarray(split.labels[:8] % 3)
    rows = jnp.asarray(split.floats(8, 40).reshape(8, 4, 8, 8, 1))
    beside = jnp.asarray(split.labels[8:40].reshape(8, 4))

    def fill(kept):
        real = kept.dtype == x.dtype
        numbers = rng.random(kept.shape) if real else rng.integers(0, 4, kept.shape)
        mask = MASK.reshape(-1, *(1,) * (kept.ndim - 1))
        return jnp.where(mask, kept, jnp.asarray(numbers, kept.dtype))

    if isinstance(defense, defenses.ASK):  # references of each class, no image's own
        rows = jnp.concatenate([rows[:, :2], rows[:2, :2]])
        others = References(rows, jnp.repeat(jnp.arange(10)[:, None], 2, 1))
    else:
        others = References(fill(rows), fill(beside))
    images = fill(x)
    return Batch(images, images, fill(y), MASK, others, jnp.int32(1))


def stepped(defense):
    """The variables to begin with, and what a step of training computes: mean loss and statistics, and
    the gradient."""
    objective = defense.objective(defense.module(10))
    train = dataset().train
    examples = objective.examples(train) if objective.examples else train.floats(0, 2)
    variables = jax.jit(objective.init)(jax.random.key(0), jnp.asarray(examples))
    train_loss = objective.train_loss or (lambda *given: (objective.loss(*given), {}))

    @jax.jit
    def step(variables, batch):
        def total(parameters):
            loss, statistics = train_loss({**variables, **parameters}, jax.random.key(1), batch)
            return jnp.mean(loss, where=MASK), statistics

        parameters = {name: leaf for name, leaf in variables.items() if name != STATISTICS}
        return jax.value_and_grad(total, has_aux=True)(parameters)

    return variables, step


@each
def test_a_step_is_finite_lowers_the_loss_and_ignores_what_fills_the_batch(defense):
    """Neither loss nor gradient nor running statistics know the images and labels of fillers."""
    variables, step = stepped(defense)
    one, other = (step(variables, batch(defense, seed)) for seed in (0, 1))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(one))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    autoencodes = isinstance(defense, defenses.Autoencoder | defenses.LipschitzAutoencoder)
    rate, same = 1e-3 if autoencodes else 1e-2, batch(defense, 0)
    ((first, _), _), last = one, np.inf
    for _ in range(15):
        (last, statistics), gradient = step(variables, same)
        moved = jax.tree.map(lambda a, g: a - rate * g, {k: variables[k] for k in gradient}, gradient)
        variables = {**variables, **moved, **statistics}
    assert last < first


@each
def test_a_value_says_all_that_it_is(defense):
    space = {"defenses": defenses, "Adversary": Adversary}
    space |= vars(neighbors) | vars(defenses) | vars(nets)  # inside it, a name is that of a network
    assert eval(f"defenses.{defense!r}", space) == defense
    told = json.loads(json.dumps(values.told(defense)))
    assert told["class"] == type(defense).__name__
    assert told["net"] == values.told(defense.net)
    assert isinstance(defense.cites, str)


@each
def test_without_its_adversary_and_noise_it_is_plain(defense):
    plain = defense.plain()
    assert type(plain) is type(defense)
    for knob in ("noise", "adversary"):
        assert isinstance(defense, defenses.Perturbable) <= (getattr(plain, knob, None) is None)
    if defense.one_image:  # its loss is of each image, by itself
        module = plain.module(10)
        objective, x = plain.objective(module), jnp.asarray(dataset().train.floats(0, 4))
        variables = jax.jit(objective.init)(jax.random.key(0), x)
        mask, loss = jnp.ones(4, bool), jax.jit(objective.loss)
        one, other = (
            loss(variables, jax.random.key(seed), Batch(z, z, jnp.arange(4), mask))
            for seed, z in enumerate((x, x.at[1:].set(0.5)))
        )
        np.testing.assert_allclose(one[0], other[0], rtol=1e-5)


@each
def test_it_is_checked_on_its_data_and_networks_by_what_they_need(defense):
    """Nothing is wrong with it as it is; early stopping needs classes, and layers must exist."""
    defense.check(dataset(), Optim())
    objective = defense.objective(defense.module(10))
    if objective.logits is None:
        with pytest.raises(ValueError, match="this defense has no output"):
            defense.check(dataset(), Optim(stopping_eps=0.1))
    for knob in ("layers", "layer"):
        if getattr(defense, knob, None):
            wrong = dataclasses.replace(defense, **{knob: ("conv7",) if knob == "layers" else "conv7"})
            with pytest.raises(ValueError, match="no layer 'conv7'"):
                wrong.check(dataset(), Optim())


def test_every_defense_is_in_the_list():
    found = {type(defense) for defense in DEFENSES} | {defenses.Untrained}
    public = (getattr(defenses, name) for name in defenses.__all__)
    kinds = {kind for kind in public if isinstance(kind, type) and issubclass(kind, defenses.Defense)}
    assert found == kinds - {defenses.Defense, defenses.Perturbable}


# Trained as recipes do; the numbers are those of commit 82af97d, before defenses were values.


@pytest.mark.parametrize(
    ("defense", "sums"),
    [
        (
            defenses.ASK(
                nets.ConvNet(((2, 3, 2, 1),)),
                ("relu1",),
                Adversary("linf", 0.1, 1, 0.05),
                references=3,
            ),
            [0.4621, 4.2491, 1.007, 28.1657],
        ),
        (
            defenses.SoftNeighbors(nets.ConvNet(((2, 3, 2, 1),)), adversary=Adversary("l2", steps=2)),
            [0.3852, 4.2241, 1.0071, 28.1824],
        ),
    ],
    ids=("ASK", "SoftNeighbors"),
)
def test_it_is_trained_as_ever_and_resumes(tmp_path, defense, sums):
    """Two epochs at once, and one after the other: the same bits."""
    few = digits(110)
    optim = Optim(epochs=2, batch_size=60, optimizer="sgd", peak_lr=0.01)
    whole = defense.fit(few, optim, tmp_path / "whole")
    defense.fit(few, dataclasses.replace(optim, epochs=1), tmp_path / "parts")
    parts = defense.fit(few, optim, tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, whole.variables, parts.variables)
    found = [np.abs(leaf, dtype=np.float64).sum() for leaf in jax.tree.leaves(whole.variables)]
    np.testing.assert_allclose(found, sums, rtol=1e-3)


def test_weights_stand_for_training(tmp_path):
    net = nets.ConvNet(((2, 3, 2, 1),))
    weights = {"conv1.weight": (2, 1, 3, 3), "conv1.bias": (2,), "fc.weight": (10, 32)}
    weights["fc.bias"] = (10,)
    arrays = {name: np.full(shape, 0.5, np.float32) for name, shape in weights.items()}
    np.savez(tmp_path / "weights.npz", **arrays)
    for kind in (defenses.CrossEntropy, defenses.Untrained):
        defense = kind(net, weights=str(tmp_path / "weights.npz"))
        defense.check(dataset(), Optim())
        found = defense.fit(dataset(), Optim(), tmp_path / "run").variables
        assert {float(leaf.min()) for leaf in jax.tree.leaves(found)} == {0.5}
    assert not (tmp_path / "run").exists()
    wrong = dataclasses.replace(defense, net=CONVNET)
    with pytest.raises(ValueError, match="it holds no weights of this network"):
        wrong.check(dataset(), Optim())
    with pytest.raises(ValueError, match="takes weights of PyTorch, and this is VGG"):
        dataclasses.replace(defense, net=VGG).check(dataset(), Optim())


def test_an_untrained_network_is_drawn_by_the_seed(tmp_path):
    defense = defenses.Untrained(CONVNET)
    one, same, other = (
        jax.tree.leaves(defense.fit(dataset(), Optim(seed=seed), tmp_path).variables)
        for seed in (0, 0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert any((a != b).any() for a, b in zip(one, other, strict=True))
    assert not any(tmp_path.iterdir())


# What cannot be trained, most of it told before there are data.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: defenses.VAE(CONVNET), "VAE trains no ConvNet: give nets.VAE"),
        (
            lambda: defenses.CrossEntropy(AUTOENCODER),
            "CrossEntropy trains no Autoencoder: ",
        ),
        (lambda: defenses.CrossEntropy(nets.digits_racnn()), "CrossEntropy trains no RaCNN"),
        (lambda: defenses.CrossEntropy(nets.Pixels()), "CrossEntropy trains no Pixels"),
        (lambda: defenses.InputMixup(VGG), "InputMixup trains no VGG: give nets.ConvNet"),
        (lambda: defenses.ManifoldMixup(VGG), "ManifoldMixup trains no VGG"),
        (lambda: defenses.VAE(VGG), "VAE trains no VGG"),
        (lambda: defenses.IdResNet(CONVNET), "IdResNet trains no ConvNet: give nets.IdResNet"),
        (lambda: defenses.Noisy(CONVNET), "Noisy trains no ConvNet: give nets.IdResNet"),
        (lambda: defenses.VAE(IDRESNET), "VAE trains no IdResNet: give nets.VAE"),
        (lambda: defenses.Repulsive(nets.Pixels()), "Repulsive trains no Pixels"),
        (lambda: defenses.Prototypes(VGG, "conv1"), "Prototypes trains no VGG"),
        (lambda: defenses.Prototypes(AUTOENCODER, "relu1"), "Prototypes trains no Autoencoder"),
        (lambda: defenses.ASK(AUTOENCODER, ("relu1",), LINF), "ASK trains no Autoencoder"),
        (lambda: dataclasses.replace(RACNN, net=CONVNET), "RaCNN trains no ConvNet"),
        (
            lambda: dataclasses.replace(RACNN, retriever=AUTOENCODER),
            "CrossEntropy trains no Autoencoder",
        ),
        (
            lambda: dataclasses.replace(RACNN, net=nets.digits_frozen_racnn()),
            "give its body",
        ),
        (lambda: dataclasses.replace(RACNN, neighbors=1), "neighbors=1"),
        (lambda: dataclasses.replace(RACNN, ce_steps=0), "ce_steps=0"),
        (lambda: dataclasses.replace(RACNN, mixup_steps=-1), "mixup_steps=-1"),
        (lambda: dataclasses.replace(RACNN, project=0), "project=0"),
        (lambda: defenses.SoftNeighbors(CONVNET, temperature=-1.0), "temperature=-1.0"),
        (lambda: defenses.SoftNeighbors(CONVNET, layers=()), r"layers=\(\)"),
        (lambda: defenses.IdResNet(IDRESNET, decay=0.0), "decay=0.0"),
        (lambda: defenses.IdResNet(IDRESNET, pull=-1.0), "pull=-1.0"),
        (lambda: defenses.IdResNet(IDRESNET, noise="none"), "noise='none'"),
        (lambda: defenses.Repulsive(CONVNET, dim=-1), "dim=-1"),
        (lambda: defenses.Prototypes(nets.Pixels(), count=0), "count=0"),
        (lambda: defenses.Prototypes(nets.Pixels(), radius=0.0), "radius=0.0"),
        (lambda: defenses.Prototypes(CONVNET), "layer=None: name the layer"),
        (lambda: defenses.Trades(CONVNET, L2), "norm='l2': Trades perturbs images in Linf"),
        (lambda: defenses.Trades(CONVNET, LINF, beta=-1.0), "beta=-1.0"),
        (lambda: defenses.TradesLoss(beta=-1.0), "beta=-1.0"),
        (lambda: defenses.ASK(VGG, ("conv1",), L2), "norm='l2': ASK perturbs images in Linf"),
        (lambda: defenses.ASK(VGG, (), LINF), r"layers=\(\)"),
        (lambda: defenses.ASK(VGG, ("conv1",), LINF, references=0), "references=0"),
        (lambda: defenses.ASK(VGG, ("conv1",), LINF, eps_ask=-1.0), "eps_ask=-1.0"),
        (lambda: defenses.ASK(VGG, ("conv1",), LINF, temperature=-1.0), "temperature=-1.0"),
    ],
)
def test_values_that_are_refused(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("defense", "optim", "message"),
    [
        (defenses.Rotation(CONVNET), Optim(augment="crop"), "augment='crop' mirrors images"),
        (defenses.Noisy(nets.IdResNet(10)), Optim(), "is 30: give subspaces=1, dim=10"),
        (dataclasses.replace(RACNN, neighbors=1293), Optim(), "asked of 1293 candidates"),
        (
            defenses.RaCNN(nets.digits_frozen_racnn(), nets.digits_resnet(), "pool"),
            Optim(weight_decay=0.1),
            "weight_decay=0.1 would change",
        ),
        (
            defenses.IdResNet(nets.IdResNet(channels=1, dim=33)),
            Optim(),
            "channels=1: too few for the 66 of a point",
        ),
    ],
)
def test_what_these_data_cannot_train_is_refused(defense, optim, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        defense.check(dataset(), optim)
    assert "\n" not in str(error.value)


def test_candidates_are_searched_by_the_keys_of_the_retriever(tmp_path):
    """Of racnn, whose training is tested in `test_racnn`."""
    few, optim = digits(110), Optim(epochs=0)
    defense = dataclasses.replace(RACNN, project=5)
    retriever = defense.fit_retriever(few, optim, tmp_path)
    near = defense.candidates(retriever, few.train, 2)
    assert isinstance(near, classifiers.KNN)
    assert near.banks[0].shape == (99, 5)
    x = jnp.asarray(few.train.floats(0, 9))
    np.testing.assert_array_equal(near.retrieved(x)[:, 0], np.arange(9))
