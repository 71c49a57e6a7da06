"""Networks against what their papers describe, layer by layer and number by number."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from some_digits import digits as load_digits

from knn_jax import nets
from knn_jax.nets import STATISTICS, convolution
from knn_jax.nets.lipschitz import patches

pytestmark = pytest.mark.usefixtures("quick")
DIGITS = (1, 8, 8, 1)
PREACT = nets.PreActResNet(((1, 3), (2, 4)), (0.4, 0.6), (0.2, 0.5)).build(5)
SHAPE = (6, 8, 8, 2)


@pytest.fixture(scope="module")
def digits(quick):
    """(module, variables) of the small convolutional network."""
    net = nets.digits_convnet().build(10)
    return net, jax.jit(net.init)(jax.random.key(0), jnp.zeros(DIGITS))


def test_a_tap_does_not_compute_the_layers_after_it(digits):
    net, variables = digits
    layers = ("relu1", "relu2", "relu3", "fc")
    work = []
    for layer in layers:
        tap = nets.features(net, variables, (layer,), DIGITS)
        program = jax.jit(tap).lower(jax.ShapeDtypeStruct(DIGITS, jnp.float32)).compile().as_text()
        work.append(len(re.findall(r" (?:convolution|dot)\(", program)))
    assert work == [1, 2, 3, 4]


def test_taps_are_the_layers_in_height_width_channel_order(digits):
    """relu1 against the convolution of the image, relu3 and fc against what goes on from relu2."""
    net, variables = digits
    x = jax.random.uniform(jax.random.key(1), (3, 8, 8, 1))
    logits, taps = net.apply(variables, x)
    params = variables["params"]

    def layer(x, number, stride, padding):
        kernel, bias = params[f"conv{number}"]["kernel"], params[f"conv{number}"]["bias"]
        return jax.nn.relu(convolution.convolve(x, kernel, stride, padding) + bias.reshape(1, 1, 1, -1))

    relu1 = layer(x, 1, 1, 1)
    relu3 = layer(layer(relu1, 2, 2, 1), 3, 1, 0)
    np.testing.assert_allclose(taps["relu1"], relu1.reshape(3, -1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(taps["relu3"], relu3.reshape(3, -1), rtol=1e-5, atol=1e-5)
    fc = relu3.reshape(3, -1) @ params["fc"]["kernel"] + params["fc"]["bias"].reshape(1, -1)
    np.testing.assert_allclose(logits, fc, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(taps["fc"], logits)


def test_lipschitz_bounds_every_pair_and_every_jacobian(digits):
    net, variables = digits
    a, b = jax.random.uniform(jax.random.key(2), (2, 50, 8, 8, 1))
    taps = jax.jit(lambda x: net.apply(variables, x)[1])
    jacobians = jax.jit(jax.vmap(jax.jacfwd(lambda z: net.apply(variables, z.reshape(DIGITS))[1])))
    jacobian = jacobians(a[:2].reshape(2, -1))
    for layer, here in taps(a).items():
        bound = net.lipschitz(variables, layer)
        for other in (b, a + 1e-2 * (b - a)):
            apart = np.linalg.norm(np.reshape(a - other, (50, -1)), axis=1)
            moved = np.linalg.norm(here - taps(other)[layer], axis=1)
            assert (moved <= bound * apart).all(), layer
        largest = np.linalg.norm(jacobian[layer][:, 0], 2, (1, 2)).max()
        assert largest <= bound < 200 * largest, layer


def test_lipschitz_worked_by_hand():
    """A 1x1 kernel of 3 and a 4x4 kernel of ones with stride 2, of norm 4 and two windows a side."""
    net = nets.ConvNet(((1, 1, 1, 0), (1, 4, 2, 0))).build(2)
    params = {
        "conv1": {"kernel": jnp.full((1, 1, 1, 1), 3.0)},
        "conv2": {"kernel": jnp.ones((4, 4, 1, 1))},
        "fc": {"kernel": jnp.diag(jnp.array([5.0, 2.0]))},
    }
    found = [net.lipschitz({"params": params}, layer) for layer in ("relu1", "relu2", "fc")]
    np.testing.assert_allclose(found, [3, 3 * 4 * 2, 3 * 4 * 2 * 5], rtol=1e-5)
    assert (np.array(found) > [3, 24, 120]).all()


def apart(net, variables, layer, a, b):
    """How far the layer moves two batches apart, over how far they are."""
    moved = net.apply(variables, a)[1][layer] - net.apply(variables, b)[1][layer]
    return jnp.linalg.norm(moved, axis=1) / jnp.linalg.norm((a - b).reshape(len(a), -1), axis=1)


@pytest.mark.parametrize("sweeps", [0, 12])
def test_no_optimisation_violates_the_lipschitz_constant(sweeps):
    """Ascending the ratio in both images and all weights, from weights far from orthonormal."""
    net = nets.LipschitzAutoencoder(((6, 2), (8, 2)), 8, 16, sweeps).build(10)
    keys = jax.random.split(jax.random.key(0), 4)
    a = jax.random.uniform(keys[0], (16, 8, 8, 1))
    b = a + 0.01 * jax.random.normal(keys[1], a.shape)
    variables = net.init(keys[2], a)
    variables = jax.tree.map(lambda leaf: leaf + jax.random.normal(keys[3], leaf.shape), variables)

    @functools.partial(jax.jit, static_argnames="layer")
    def ascend(layer):
        def total(inputs):
            return jnp.log(apart(net, inputs[0], layer, *inputs[1:])).sum()

        def step(inputs, _):
            gradient = jax.grad(total)(inputs)
            return jax.tree.map(lambda leaf, g: leaf + 0.003 * g, inputs, gradient), total(inputs)

        return lax.scan(step, (variables, a, b), length=60)

    for layer in ("relu1", "relu2", "bottleneck"):
        (changed, a_, b_), totals = ascend(layer)
        assert totals[-1] > totals[0] - 1e-4, "the ascent ascends"
        bound = net.lipschitz(changed, layer)
        assert bound <= 1.0001
        assert (apart(net, changed, layer, a_, b_) <= bound * (1 + 1e-5)).all()
        assert net.lipschitz(variables, layer) <= 1.0001


def test_sweeps_make_an_isometry_where_channels_last():
    """Distances through the first stage stay, but for signs that differ; without sweeps they shrink."""
    x, dx = jax.random.uniform(jax.random.key(0), (2, 16, 8, 8, 1))
    kept = []
    for sweeps in (0, 12):
        net = nets.LipschitzAutoencoder(((6, 2), (8, 2)), 8, 16, sweeps).build(10)
        variables = net.init(jax.random.key(1), x)
        noise = jax.random.normal(jax.random.key(2), (4, 6))
        variables["params"]["stage1"]["kernel"] = jax.random.normal(jax.random.key(3), (4, 6)) + noise
        variables["params"]["stage1"]["bias"] += 9.0  # all positive
        kept.append(apart(net, variables, "relu1", x, dx))
    np.testing.assert_allclose(kept[1], 1.0, rtol=1e-3)
    assert (kept[0] < 0.9).all()


def test_patches_keep_every_pixel_once():
    x = jnp.arange(2 * 5 * 4 * 3.0).reshape(2, 5, 4, 3)
    found = patches(x, 2)
    assert found.shape == (2, 3, 2, 12)
    np.testing.assert_array_equal(found[1, 1, 0], x[1, 2:4, :2].reshape(12))
    np.testing.assert_array_equal(found[:, 2, :, 6:], 0)  # below the image
    np.testing.assert_allclose(jnp.sum(found), jnp.sum(x))


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(0), SHAPE)


@pytest.fixture(scope="module")
def variables(quick):
    """Neither fresh nor alike: every array is drawn, variances above 0."""
    fresh = jax.eval_shape(PREACT.init, jax.random.key(0), jnp.zeros(SHAPE))
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
    mean, std = (np.array(v, np.float32).reshape(1, 1, 1, -1) for v in (PREACT.mean, PREACT.std))
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
    found, expected = PREACT.apply(variables, images), by_hand(variables, images)
    assert list(found[1]) == ["layer1", "layer2"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-2), found, expected)


def test_pixels_are_normalised_as_the_data_is():
    """The digits' own mean and deviation; CIFAR-10's are PyTorch users' common ones."""
    mean, std = nets.digits_preact_resnet().mean, nets.digits_preact_resnet().std
    pixels = load_digits().train.images
    np.testing.assert_allclose([*mean, *std], [pixels.mean(), pixels.std()], atol=2e-3)


def test_running_statistics_move_a_tenth_towards_the_batch(images, variables):
    _, found = applied(PREACT, variables, images, True)
    x, before = first(variables, images), variables[STATISTICS]["layer1_1"]["norm1"]
    now = found["layer1_1"]["norm1"]
    np.testing.assert_allclose(now["mean"], 0.9 * before["mean"] + 0.1 * x.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(now["var"], 0.9 * before["var"] + 0.1 * x.var((0, 1, 2)), rtol=1e-3)


def test_running_statistics_converge_to_those_of_the_data(images, variables):
    """Then a step of training and evaluation see the same network."""

    def step(statistics, _):
        return applied(PREACT, {**variables, STATISTICS: statistics}, images, True)[1], None

    converged = lax.scan(step, variables[STATISTICS], length=120)[0]
    x, found = first(variables, images), converged["layer1_1"]["norm1"]
    np.testing.assert_allclose(found["mean"], x.mean((0, 1, 2)), rtol=1e-3)
    np.testing.assert_allclose(found["var"], x.var((0, 1, 2)), rtol=1e-3)
    (trained, _), _ = applied(PREACT, variables, images, True)
    evaluated, _ = PREACT.apply({**variables, STATISTICS: converged}, images)
    np.testing.assert_allclose(evaluated, trained, rtol=1e-3, atol=1e-3)
    other, _ = PREACT.apply(variables, images)
    assert np.abs(other - trained).min() > 0.1


def test_examples_that_fill_a_batch_move_nothing(images, variables):
    filled = jnp.concatenate([images, 1 - images[:2], jnp.ones((2, *SHAPE[1:]))])
    whole = applied(PREACT, variables, images, True)
    padded = applied(PREACT, variables, filled, jnp.arange(10) < 6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b[: len(a)], rtol=1e-3, atol=1e-3), whole, padded
    )
    np.testing.assert_array_less(
        1e-3, np.abs(applied(PREACT, variables, filled, True)[0][0][:6] - whole[0][0])
    )


def test_preact_lipschitz_bounds_every_pair_and_every_jacobian(images, variables):
    other = images[::-1] + 1e-2 * images
    taps = jax.jit(lambda x: PREACT.apply(variables, x)[1])
    jacobian = jax.jit(jax.jacfwd(lambda x: PREACT.apply(variables, x[None])[1]))(images[0])
    for layer, here in taps(images).items():
        bound = PREACT.lipschitz(variables, layer)
        apart = np.linalg.norm(np.reshape(images - other, (6, -1)), axis=1)
        assert (np.linalg.norm(here - taps(other)[layer], axis=1) <= bound * apart).all()
        largest = np.linalg.norm(jacobian[layer].reshape(here.shape[1], -1), 2)
        assert largest <= bound < 200 * largest, layer
    with pytest.raises(ValueError, match="no Lipschitz constant of the layer 'layer9'"):
        PREACT.lipschitz(variables, "layer9")


def test_preact_lipschitz_worked_by_hand():
    """One block of 1x1 numbers: 3 x 2 / .5, then 1 + (4 / 2) x 3 x 5 x (6 / 3) x 3 x 7."""
    net = nets.PreActResNet(((1, 1),), (0.0,), (0.5,)).build(2)

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


SMALL = {
    "vgg": nets.VGG(((1, 3), (2, 4)), (5,)).build(3),
    "resnet": nets.ResNet(((1, 3), (1, 4))).build(3),
    "resnet of small images": nets.ResNet(((1, 3), (1, 4)), large=False).build(3),
    "strided": nets.AllConv(((3, 3, 1), (4, 4, 2)), (5,)).build(3),
}
each = pytest.mark.parametrize("name", SMALL)


@functools.cache
def drawn(name):
    """Variables of which none are alike, variances above 0, and images."""
    fresh = jax.eval_shape(SMALL[name].init, jax.random.key(0), jnp.zeros((5, 8, 8, 2)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda a: jnp.asarray(rng.uniform(0.2, 1.0, a.shape) - 0.4 * (a.ndim > 1), jnp.float32), fresh
    )
    return variables, jnp.asarray(rng.random((5, 8, 8, 2)), jnp.float32)


@functools.cache
def program(name):
    return jax.jit(lambda variables, x: SMALL[name].apply(variables, x, False))


@each
def test_the_first_tap_by_hand(name):
    """Convolved, normalised, cut at 0 and, in two of them, pooled, with running statistics."""
    variables, x = drawn(name)
    first, norm = ("conv1_1", "conv1_1_norm") if name == "vgg" else ("conv1", "norm1")
    params, statistics = jax.device_get((variables["params"], variables[STATISTICS][norm]))
    stride, sides = {"resnet": (2, 3), "strided": (1, 0)}.get(name, (1, 1))
    out = jax.lax.conv_general_dilated(
        *(x, params[first]["kernel"], (stride, stride), ((sides, sides),) * 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    out = np.asarray(out) + np.asarray(params[first].get("bias", 0.0))
    out = (out - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5)
    out = np.maximum(out * params[norm]["scale"] + params[norm]["bias"], 0)
    if name == "vgg":
        pooled = out.reshape(5, 4, 2, 4, 2, 3).max((2, 4))
    elif name != "resnet":
        pooled = out
    else:
        padded = np.pad(out, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = [padded[:, i : i + 4 : 2, j : j + 4 : 2] for i in range(3) for j in range(3)]
        pooled = np.max(windows, 0)
    _, taps = program(name)(variables, x)
    np.testing.assert_allclose(taps["conv1"], pooled.reshape(5, -1), rtol=2e-4, atol=1e-5)


def test_half_of_the_hidden_numbers_are_dropped_in_training_only():
    variables, x = drawn("vgg")
    apply = functools.partial(SMALL["vgg"].apply, variables, x, mutable=[STATISTICS])
    there = jnp.ones(5, bool)
    logits = [apply(there, rngs={"dropout": jax.random.key(n)})[0][0] for n in (0, 0, 1)]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert (logits[0] != logits[2]).any()
    running = [apply(False, rngs={"dropout": jax.random.key(n)})[0][0] for n in (0, 1)]
    np.testing.assert_array_equal(*running)


def test_half_precision_is_for_training_alone():
    """Convolutions are rounded to 8 bits; parameters, statistics and output stay float32."""
    variables, x = drawn("resnet of small images")
    whole, half = (
        nets.ResNet(((1, 3), (1, 4)), large=False, half=half).build(3) for half in (False, True)
    )
    np.testing.assert_array_equal(half.apply(variables, x)[0], whole.apply(variables, x)[0])
    there = jnp.ones(len(x), bool)
    (exact, _), _ = whole.apply(variables, x, there, mutable=[STATISTICS])
    (rounded, _), statistics = half.apply(variables, x, there, mutable=[STATISTICS])
    assert {leaf.dtype for leaf in jax.tree.leaves((rounded, statistics))} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(half.init(jax.random.key(0), x))} == {
        jnp.dtype("float32")
    }
    assert (rounded != exact).any()
    np.testing.assert_allclose(rounded, exact, atol=0.1 * jnp.abs(exact).max())
