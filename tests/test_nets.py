"""Networks: their shapes, gradients, bounds and PyTorch weights."""

import functools
import math
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from knn_jax import config, nets
from knn_jax.nets import convolution, trunk

pytestmark = pytest.mark.usefixtures("quick")
DIGITS = (1, 8, 8, 1)


@pytest.fixture(scope="module")
def digits(quick):
    """(net, variables) of the small trunk."""
    net = nets.build(config.Net(name="digits"), 10)
    return net, jax.jit(net.init)(jax.random.key(0), jnp.zeros(DIGITS))


SIZES = {"relu1": 12544, "relu2": 8192, "relu3": 2048}


@pytest.mark.parametrize(
    ("name", "classes", "parameters", "heads"),
    [
        ("mnist", 10, 729_418, {"fc": 10}),
        ("mnist", 4, 717_124, {"fc": 4}),
        ("mnist_autoencoder", 10, 1_945_840, {"relu4": 400, "latent": 128}),
        ("mnist_vae", 10, 1_997_168, {"relu4": 400, "mean": 128, "logvar": 128}),
    ],
)
def test_networks_have_the_parameters_and_layers_of_the_paper(name, classes, parameters, heads):
    """By hand, the first: 64 x 8^2 + 64, 128 x 64 x 6^2 + 128, 128^2 x 5^2 + 128, 10 x 2048 + 10."""
    net, shape = nets.build(config.Net(name=name), classes), (1, 28, 28, 1)
    variables = jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables)) == parameters
    found = nets.taps(net, variables, shape)
    assert found == {tap: (1, size) for tap, size in (SIZES | heads).items()}


def test_pixels_are_the_flattened_image():
    x = jnp.arange(24.0).reshape(2, 2, 3, 2) / 24
    (pixels,) = nets.features(nets.Pixels(), {}, ("pixels",), (1, 2, 3, 2))(x)
    np.testing.assert_array_equal(pixels, x.reshape(2, 12))


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(3, 1, 1), (4, 2, 1), (6, 2, 2), (2, 3, 0), (8, 1, 4), (8, 3, 2)]
)
def test_the_convolution_and_its_derivatives_are_those_of_lax(size, stride, padding):
    keys = jax.random.split(jax.random.key(0), 5)
    x, dx = (jax.random.normal(key, (2, 7, 9, 3)) for key in keys[:2])
    kernel, dkernel = (jax.random.normal(key, (size, size, 3, 4)) for key in keys[2:4])

    def plain(x, kernel):
        sides = ((padding, padding),) * 2
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), sides, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def ours(x, kernel):
        return convolution.convolve(x, kernel, stride, padding)

    @jax.jit
    def derivatives(x, kernel, dx, dkernel):
        def of(convolve):
            out, forward = jax.jvp(convolve, (x, kernel), (dx, dkernel))
            weight = jax.random.normal(keys[4], out.shape)
            backward = jax.grad(lambda *a: jnp.sum(weight * convolve(*a)), (0, 1))(x, kernel)
            return out, forward, *backward

        return of(ours), of(plain)

    for mine, expected in zip(*derivatives(x, kernel, dx, dkernel), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 0)])
def test_pooling_and_its_gradient_are_those_of_flax(size, stride, padding):
    x = jax.random.normal(jax.random.key(0), (2, 7, 8, 3))
    sides: Any = ((padding, padding),) * 2

    def plain(x):
        return nn.max_pool(x, (size, size), (stride, stride), sides)

    def ours(x):
        return convolution.max_pool(x, size, stride, padding)

    weight = jax.random.normal(jax.random.key(1), plain(x).shape)
    np.testing.assert_array_equal(ours(x), plain(x))
    mine, expected = (jax.grad(lambda x, of=of: jnp.sum(weight * of(x)))(x) for of in (ours, plain))
    np.testing.assert_allclose(mine, expected, rtol=1e-6, atol=1e-6)
    assert jax.grad(lambda x: jnp.sum(ours(x)))(jnp.zeros_like(x)).sum() == weight.size


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what XLA's CPU backend is slow at")
@pytest.mark.parametrize(
    ("size", "stride", "padding", "expected"),
    [(3, 1, 1, 2), (3, 2, 1, 1), (5, 1, 0, 1), (8, 1, 4, 0)],
    ids=["both", "a stride", "larger than its output", "larger than its image"],
)
def test_attacks_convolve_by_no_slow_form(size, stride, padding, expected):
    """A loop of gradients convolves by kernels in the usual order and within their images, or not."""
    kernel = jax.random.normal(jax.random.key(0), (size, size, 3, 4))

    def step(_, x):
        y = jax.grad(lambda x: jnp.sum(convolution.convolve(x, kernel, stride, padding) ** 2))(x)
        return x + 0.1 * y

    loop = jax.jit(lambda x: lax.fori_loop(0, 3, step, x))
    program = loop.lower(jax.ShapeDtypeStruct((2, 7, 7, 3), jnp.float32)).compile().as_text()
    found = re.findall(r" convolution\(.*?dim_labels=(\S+?),", program)
    assert len(found) == expected
    assert set(found) <= {"b01f_01io->b01f"}


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
    net = trunk.Trunk(((1, 1, 1, 0), (1, 4, 2, 0)), 2)
    params = {
        "conv1": {"kernel": jnp.full((1, 1, 1, 1), 3.0)},
        "conv2": {"kernel": jnp.ones((4, 4, 1, 1))},
        "fc": {"kernel": jnp.diag(jnp.array([5.0, 2.0]))},
    }
    found = [net.lipschitz({"params": params}, layer) for layer in ("relu1", "relu2", "fc")]
    np.testing.assert_allclose(found, [3, 3 * 4 * 2, 3 * 4 * 2 * 5], rtol=1e-5)
    assert (np.array(found) > [3, 24, 120]).all()


def torch_weights(layers, classes, features, channels=1):
    """A state dict of random arrays in PyTorch's layout."""
    rng, weights = np.random.default_rng(0), {}
    for number, (out, size, _, _) in enumerate(layers, 1):
        kernel = 0.2 * rng.normal(size=(out, channels, size, size))
        weights[f"conv{number}.weight"] = kernel.astype(np.float32)
        weights[f"conv{number}.bias"] = rng.normal(size=out).astype(np.float32)
        channels = out
    weights["fc.weight"] = rng.normal(size=(classes, features)).astype(np.float32)
    weights["fc.bias"] = rng.normal(size=classes).astype(np.float32)
    return weights


SMALL = trunk.Trunk(((3, 3, 1, 1), (4, 4, 2, 1)), 5)
WEIGHTS = torch_weights(SMALL.layers, 5, 4 * 4 * 4)


def as_torch(weights, x):
    """The logits of NCHW images, computed in PyTorch's layout throughout."""
    for number, (_, _, stride, padding) in enumerate(SMALL.layers, 1):
        kernel, bias = weights[f"conv{number}.weight"], weights[f"conv{number}.bias"]
        sides = ((padding, padding),) * 2
        x = lax.conv_general_dilated(
            x, kernel, (stride, stride), sides, dimension_numbers=("NCHW", "OIHW", "NCHW")
        )
        x = np.maximum(np.asarray(x) + bias[:, None, None], 0)
    return x.reshape(len(x), -1) @ weights["fc.weight"].T + weights["fc.bias"]


@pytest.mark.parametrize("source", ["arrays", "file"])
def test_torch_weights_give_the_logits_they_gave_in_torch(source, tmp_path):
    x = np.random.default_rng(1).uniform(size=(2, 1, 8, 8)).astype(np.float32)
    if source == "file":
        np.savez(tmp_path / "weights.npz", **WEIGHTS)
        variables = nets.load_weights(str(tmp_path / "weights.npz"), SMALL, DIGITS)
    else:  # with a number of the loss it was trained with
        variables = trunk.from_torch({**WEIGHTS, "it": np.ones(1)}, SMALL, DIGITS)
    logits, _ = SMALL.apply(variables, jnp.asarray(x.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(logits, as_torch(WEIGHTS, x), rtol=1e-4, atol=1e-4)


def test_torch_weights_have_the_names_and_shapes_of_fresh_ones():
    fresh = jax.eval_shape(SMALL.init, jax.random.key(0), jnp.zeros(DIGITS))
    loaded = trunk.from_torch(WEIGHTS, SMALL, DIGITS)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (fresh, loaded))
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("weights", "net", "message"),
    [
        (None, SMALL, "net.weights: there is no file"),
        (WEIGHTS, nets.Pixels(), "net.weights: Pixels takes no weights"),
        ({"conv1.weight": WEIGHTS["conv1.weight"]}, SMALL, "holds no weights of this network"),
        (torch_weights(SMALL.layers, 5, 7), SMALL, r"fc.weight is \(5, 7\), .* \(5, 64\)"),
        (torch_weights(SMALL.layers, 4, 64), SMALL, r"fc.weight is \(4, 64\), .* \(5, 64\)"),
        (torch_weights(SMALL.layers, 5, 256), SMALL, "fc.weight is"),  # of images of 16x16
        (torch_weights(SMALL.layers, 5, 64, channels=3), SMALL, "conv1.weight is"),
        (torch_weights(((3, 5, 1, 1), *SMALL.layers[1:]), 5, 64), SMALL, "conv1.weight is"),
        (
            torch_weights(((6, 3, 1, 1), *SMALL.layers[1:]), 5, 64),
            SMALL,
            r"conv1.weight is \(6, 1, 3, 3\)",
        ),
        (torch_weights((*SMALL.layers, (4, 1, 1, 0)), 5, 64), SMALL, "this network has no conv3.bias"),
        (torch_weights(SMALL.layers[:1], 5, 64), SMALL, "there is no conv2.bias"),
        ({**WEIGHTS, "bn1.weight": np.ones(3)}, SMALL, "this network has no bn1.weight"),
        ({**WEIGHTS, "fc.bias": np.arange(5)}, SMALL, "fc.bias is int64"),
        ({**WEIGHTS, "fc.bias": WEIGHTS["fc.bias"] * np.nan}, SMALL, "fc.bias holds NaN"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, net, message, tmp_path):
    path = tmp_path / "weights.npz"
    if weights is not None:
        np.savez(path, **weights)
    with pytest.raises(ValueError, match=message):
        nets.load_weights(str(path), net, DIGITS)


@pytest.mark.parametrize(
    ("layer", "hint"), [("relu4", r" \(did you mean 'relu[123]'\?\)"), ("zzz", "")]
)
def test_an_unknown_layer_is_answered_with_the_known_ones(digits, layer, hint):
    with pytest.raises(ValueError, match=f"no layer '{layer}'{hint}: this network's are ") as error:
        nets.features(*digits, ("relu1", layer), DIGITS)
    listed = str(error.value).rpartition(" are ")[2].split(", ")
    assert sorted(listed) == ["fc", "relu1", "relu2", "relu3"]


def test_features_made_twice_share_their_program(digits):
    net, variables = digits
    traced = jax.jit(lambda tap, x: tap(x))
    other = jax.tree.map(lambda leaf: 2 * leaf, variables)
    for values in (variables, other):
        traced(nets.features(net, values, ("relu1",), DIGITS), jnp.zeros(DIGITS))
    assert traced._cache_size() == 1


def apart(net, variables, layer, a, b):
    """How far the layer moves two batches apart, over how far they are."""
    moved = net.apply(variables, a)[1][layer] - net.apply(variables, b)[1][layer]
    return jnp.linalg.norm(moved, axis=1) / jnp.linalg.norm((a - b).reshape(len(a), -1), axis=1)


@pytest.mark.parametrize("sweeps", [0, 12])
def test_no_optimisation_violates_the_lipschitz_constant(sweeps):
    """Ascending the ratio in both images and all weights, from weights far from orthonormal."""
    net = nets.lipschitz.LipschitzAutoencoder(((6, 2), (8, 2)), 8, 16, sweeps)
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
        net = nets.lipschitz.LipschitzAutoencoder(((6, 2), (8, 2)), 8, 16, sweeps)
        variables = net.init(jax.random.key(1), x)
        noise = jax.random.normal(jax.random.key(2), (4, 6))
        variables["params"]["stage1"]["kernel"] = jax.random.normal(jax.random.key(3), (4, 6)) + noise
        variables["params"]["stage1"]["bias"] += 9.0  # all positive
        kept.append(apart(net, variables, "relu1", x, dx))
    np.testing.assert_allclose(kept[1], 1.0, rtol=1e-3)
    assert (kept[0] < 0.9).all()


def test_patches_keep_every_pixel_once():
    x = jnp.arange(2 * 5 * 4 * 3.0).reshape(2, 5, 4, 3)
    found = nets.lipschitz.patches(x, 2)
    assert found.shape == (2, 3, 2, 12)
    np.testing.assert_array_equal(found[1, 1, 0], x[1, 2:4, :2].reshape(12))
    np.testing.assert_array_equal(found[:, 2, :, 6:], 0)  # below the image
    np.testing.assert_allclose(jnp.sum(found), jnp.sum(x))
