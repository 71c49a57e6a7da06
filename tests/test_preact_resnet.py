"""The residual network: its layers, its statistics, and training that moves them once a step."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from knn_jax import config, data, defenses, mesh, nets, training
from knn_jax.defenses import STATISTICS, Batch

pytestmark = pytest.mark.usefixtures("trains", "quick")
NET = nets.preact_resnet.PreActResNet(((1, 3), (2, 4)), 5, (0.4, 0.6), (0.2, 0.5))
SHAPE = (6, 8, 8, 2)


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(0), SHAPE)


@pytest.fixture(scope="module")
def variables(quick):
    """Neither fresh nor alike: every array is drawn, variances above 0."""
    fresh = jax.eval_shape(NET.init, jax.random.key(0), jnp.zeros(SHAPE))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(rng.uniform(0.2, 1.0, a.shape).astype(np.float32)), fresh)


@functools.partial(jax.jit, static_argnums=0)
def applied(net, variables, x, there):
    """With the batch's statistics: ((logits, taps), running statistics)."""
    found, changed = net.apply(variables, x, there, mutable=[STATISTICS])
    return found, changed[STATISTICS]


def conv(x, kernel, stride, padding):
    dimensions = ("NHWC", "HWIO", "NHWC")
    sides = ((padding, padding),) * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), sides, dimension_numbers=dimensions)


def first(variables, x):
    """What the first normalisation is given."""
    mean, std = (np.array(v, np.float32).reshape(1, 1, 1, -1) for v in (NET.mean, NET.std))
    return conv((x - mean) / std, variables["params"]["conv1"]["kernel"], 1, 1)


def by_hand(variables, x):
    """The stages and logits with running statistics, written out layer by layer."""
    params, statistics = variables["params"], variables[STATISTICS]

    def active(x, name, norm):
        scale, bias = (params[name][norm][k].reshape(1, 1, 1, -1) for k in ("scale", "bias"))
        mean, var = (statistics[name][norm][k].reshape(1, 1, 1, -1) for k in ("mean", "var"))
        return jax.nn.relu(scale * (x - mean) / jnp.sqrt(var + 1e-5) + bias)

    def block(x, name, stride, shortcut):
        kernels = {k: v["kernel"] for k, v in params[name].items() if "kernel" in v}
        a = active(x, name, "norm1")
        inner = active(conv(a, kernels["conv1"], stride, 1), name, "norm2")
        return conv(inner, kernels["conv2"], 1, 1) + (
            conv(a, kernels["shortcut"], 2, 0) if shortcut else x
        )

    layer1 = block(first(variables, x), "layer1_1", 1, False)
    layer2 = block(block(layer1, "layer2_1", 2, True), "layer2_2", 1, False)
    logits = layer2.mean((1, 2)) @ params["fc"]["kernel"] + params["fc"]["bias"].reshape(1, -1)
    return logits, {"layer1": layer1.reshape(len(x), -1), "layer2": layer2.reshape(len(x), -1)}


def test_it_is_what_the_paper_describes(images, variables):
    found, expected = NET.apply(variables, images), by_hand(variables, images)
    assert list(found[1]) == ["layer1", "layer2"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-2), found, expected)


def test_paper_1s_has_its_parameters_and_layers():
    """Its authors' code counts 11,171,152 with the mean and deviation of 3 channels, constants here."""
    net, shape = nets.build(config.Net(name="cifar10_resnet"), 10), (1, 32, 32, 3)
    variables = jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == 11_171_152 - 6
    assert nets.taps(net, variables, shape) == {
        "layer1": (1, 65536),
        "layer2": (1, 32768),
        "layer3": (1, 16384),
        "layer4": (1, 8192),
    }


def test_pixels_are_normalised_as_the_data_is():
    """The digits' own mean and deviation; CIFAR-10's are PyTorch users' common ones."""
    _, mean, std = nets.preact_resnet.SIZES["digits"]
    pixels = data.load(config.Data()).train.images
    np.testing.assert_allclose([*mean, *std], [pixels.mean(), pixels.std()], atol=2e-3)


def test_running_statistics_move_a_tenth_towards_the_batch(images, variables):
    _, found = applied(NET, variables, images, True)
    x, before = first(variables, images), variables[STATISTICS]["layer1_1"]["norm1"]
    now = found["layer1_1"]["norm1"]
    np.testing.assert_allclose(now["mean"], 0.9 * before["mean"] + 0.1 * x.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(now["var"], 0.9 * before["var"] + 0.1 * x.var((0, 1, 2)), rtol=1e-3)


def test_running_statistics_converge_to_those_of_the_data(images, variables):
    """Then a step of training and evaluation see the same network."""

    def step(statistics, _):
        return applied(NET, {**variables, STATISTICS: statistics}, images, True)[1], None

    converged = lax.scan(step, variables[STATISTICS], length=120)[0]
    x, found = first(variables, images), converged["layer1_1"]["norm1"]
    np.testing.assert_allclose(found["mean"], x.mean((0, 1, 2)), rtol=1e-3)
    np.testing.assert_allclose(found["var"], x.var((0, 1, 2)), rtol=1e-3)
    (trained, _), _ = applied(NET, variables, images, True)
    evaluated, _ = NET.apply({**variables, STATISTICS: converged}, images)
    np.testing.assert_allclose(evaluated, trained, rtol=1e-3, atol=1e-3)
    other, _ = NET.apply(variables, images)
    assert np.abs(other - trained).min() > 0.1


def test_an_evaluated_image_does_not_know_its_batch(images, variables):
    together = NET.apply(variables, images)[1]["layer2"]
    alone = jnp.concatenate([NET.apply(variables, x[None])[1]["layer2"] for x in images])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-3)
    trained = applied(NET, variables, images.at[1:].multiply(0.5), True)[0][1]["layer2"]
    assert np.abs(trained[0] - applied(NET, variables, images, True)[0][1]["layer2"][0]).max() > 0.1


def test_examples_that_fill_a_batch_move_nothing(images, variables):
    filled = jnp.concatenate([images, 1 - images[:2], jnp.ones((2, *SHAPE[1:]))])
    whole = applied(NET, variables, images, True)
    padded = applied(NET, variables, filled, jnp.arange(10) < 6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b[: len(a)], rtol=1e-3, atol=1e-3), whole, padded
    )
    np.testing.assert_array_less(
        1e-3, np.abs(applied(NET, variables, filled, True)[0][0][:6] - whole[0][0])
    )


def test_lipschitz_bounds_every_pair_and_every_jacobian(images, variables):
    other = images[::-1] + 1e-2 * images
    taps = jax.jit(lambda x: NET.apply(variables, x)[1])
    jacobian = jax.jit(jax.jacfwd(lambda x: NET.apply(variables, x[None])[1]))(images[0])
    for layer, here in taps(images).items():
        bound = NET.lipschitz(variables, layer)
        apart = np.linalg.norm(np.reshape(images - other, (6, -1)), axis=1)
        assert (np.linalg.norm(here - taps(other)[layer], axis=1) <= bound * apart).all()
        largest = np.linalg.norm(jacobian[layer].reshape(here.shape[1], -1), 2)
        assert largest <= bound < 200 * largest, layer
    with pytest.raises(ValueError, match="no Lipschitz constant of the layer 'layer9'"):
        NET.lipschitz(variables, "layer9")


def test_lipschitz_worked_by_hand():
    """One block of 1x1 numbers: 3 x 2 / .5, then 1 + (4 / 2) x 3 x 5 x (6 / 3) x 3 x 7."""
    net = nets.preact_resnet.PreActResNet(((1, 1),), 2, (0.0,), (0.5,))

    def kernel(value):  # of which only the middle is not 0
        return {"kernel": jnp.zeros((3, 3, 1, 1)).at[1, 1].set(value)}

    norms = {"norm1": {"scale": jnp.array([-4.0])}, "norm2": {"scale": jnp.array([6.0])}}
    block = {**norms, "conv1": kernel(5.0), "conv2": kernel(7.0)}
    statistics = {"norm1": {"var": jnp.array([4.0])}, "norm2": {"var": jnp.array([9.0])}}
    variables = {
        "params": {"conv1": kernel(2.0), "layer1_1": block},
        STATISTICS: {"layer1_1": statistics},
    }
    expected = 3 * 2 / 0.5 * (1 + 2 * 3 * 5 * 2 * 3 * 7)
    np.testing.assert_allclose(net.lipschitz(variables, "layer1"), expected, rtol=1e-4)


class Noting:
    """The network, and what it was applied to and how."""

    def __init__(self, net):
        self.net, self.init, self.calls = net, net.init, []

    def apply(self, variables, x, train=False, **how):
        self.calls.append((x, train))
        return self.net.apply(variables, x, train, **how)


def test_an_adversary_uses_running_statistics_and_leaves_them(images, variables):
    """They move once, by the perturbed images that are there."""
    noting = Noting(NET)
    defense = defenses.adversarial(defenses.basic(noting), "l2", 0.0, steps=3, step_size=0.3)
    batch = Batch(images, images, jnp.arange(6, dtype=jnp.int32) % 5, jnp.arange(6) < 5)
    loss, found = defense.learn(variables, jax.random.key(0), batch)
    *ascents, (perturbed, there) = noting.calls
    assert ascents
    assert all(train is False for _, train in ascents)
    np.testing.assert_array_equal(there, batch.there)
    assert np.abs(perturbed - images).max() > 0.1
    (logits, _), expected = applied(NET, variables, perturbed, batch.there)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), found[STATISTICS], expected)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, batch.y)
    np.testing.assert_allclose(loss, expected, rtol=1e-3)


@pytest.fixture(scope="module")
def few():
    """100 digits to train on."""
    found = data.load(config.Data())
    return found._replace(train=data.Split(*(part[:100] for part in found.train)))


def train(few, folder, devices=None, **knobs):
    defense = defenses.build(config.Defense(), nets.build(config.Net(name="digits_resnet"), 10))
    return training.train(defense, few, config.Optim(**knobs), folder, devices)


def close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), a, b)


@pytest.fixture
def descent(monkeypatch):
    """Adam divides by the size of a gradient, which makes much of rounding where it is nearly 0."""
    monkeypatch.setattr(training.optax, "adam", optax.sgd)


def test_devices_share_statistics(tmp_path, few, descent):
    """Of the whole batch, filled up or not: 30 is no multiple of 4, and 10 are left at the end."""
    knobs = {"epochs": 1, "batch_size": 30, "peak_lr": 0.01}
    one = train(few, tmp_path / "one", **knobs)
    close(one, train(few, tmp_path / "four", mesh.make(), **knobs))


def test_a_filled_batch_trains_as_its_own_images(tmp_path, few, descent):
    exact, padded = (
        train(few, tmp_path / str(size), epochs=2, batch_size=size, peak_lr=0.01) for size in (100, 160)
    )
    close(exact, padded)


def test_weight_decay_pulls_parameters_and_no_statistics(tmp_path, few, descent):
    knobs = {"batch_size": 100, "peak_lr": 0.5}
    start = train(few, tmp_path / "start", epochs=0, **knobs)
    free = train(few, tmp_path / "free", epochs=1, **knobs)
    pulled = train(few, tmp_path / "pulled", epochs=1, weight_decay=0.1, **knobs)
    close(free[STATISTICS], pulled[STATISTICS])
    expected = jax.tree.map(lambda end, begin: end - 0.5 * 0.1 * begin, free["params"], start["params"])
    close(pulled["params"], expected)
    assert np.abs(pulled["params"]["fc"]["kernel"] - free["params"]["fc"]["kernel"]).max() > 1e-3


def test_it_learns_and_evaluates_by_running_statistics(tmp_path, few):
    defense = defenses.basic(nets.build(config.Net(name="digits_resnet"), 10))
    x, y = jnp.asarray(few.train.floats(0, 100)), jnp.asarray(few.train.labels)
    batch = Batch(x, x, y, jnp.ones(100, bool))
    start, end = (
        train(few, tmp_path / str(epochs), epochs=epochs, drops=(25,), batch_size=50, peak_lr=0.01)
        for epochs in (0, 35)
    )
    before, after = (float(defense.loss(v, None, batch).mean()) for v in (start, end))
    assert after < 0.3 * before
    assert (defense.logits(end, x).argmax(1) == y).mean() > 0.9


@pytest.mark.parametrize("name", ["input_mixup", "manifold_mixup", "vae"])
def test_what_would_leave_its_statistics_alone_is_refused(name):
    """Their losses do not say how a step of training moves them."""
    with pytest.raises(ValueError, match=f"'{name}' trains no net.name='cifar10_resnet': use 'basic'"):
        defenses.check(config.Defense(name=name), config.Net(name="cifar10_resnet"))
    if name != "vae":
        assert defenses.build(config.Defense(name=name), nets.trunk.Trunk((), 10)).learn is None
