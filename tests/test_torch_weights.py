"""Weights that were trained in PyTorch: they give its logits, or are refused in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from knn_jax import nets
from knn_jax.nets.torch_weights import from_torch

pytestmark = pytest.mark.usefixtures("quick")
DIGITS = (1, 8, 8, 1)


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


SMALL = nets.ConvNet(((3, 3, 1, 1), (4, 4, 2, 1))).build(5)
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
        variables = from_torch({**WEIGHTS, "it": np.ones(1)}, SMALL, DIGITS)
    logits, _ = SMALL.apply(variables, jnp.asarray(x.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(logits, as_torch(WEIGHTS, x), rtol=1e-4, atol=1e-4)


def test_torch_weights_have_the_names_and_shapes_of_fresh_ones():
    fresh = jax.eval_shape(SMALL.init, jax.random.key(0), jnp.zeros(DIGITS))
    loaded = from_torch(WEIGHTS, SMALL, DIGITS)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (fresh, loaded))
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("weights", "net", "message"),
    [
        (None, SMALL, "there is no such file"),
        (WEIGHTS, nets.Pixels().build(5), "a ConvNet or a ResNet takes weights .* this is Pixels"),
        ({"conv1.weight": WEIGHTS["conv1.weight"]}, SMALL, "it holds no weights of this network"),
        (torch_weights(SMALL.layers, 5, 7), SMALL, r"fc.weight is \(5, 7\), .* \(5, 64\)"),
        (torch_weights(SMALL.layers, 4, 64), SMALL, r"fc.bias is \(4,\), .* \(5,\)"),
        (torch_weights(SMALL.layers, 5, 256), SMALL, "fc.weight is"),  # of images of 16x16
        (torch_weights(SMALL.layers, 5, 64, channels=3), SMALL, "conv1.weight is"),
        (torch_weights(((3, 5, 1, 1), *SMALL.layers[1:]), 5, 64), SMALL, "conv1.weight is"),
        (
            torch_weights(((6, 3, 1, 1), *SMALL.layers[1:]), 5, 64),
            SMALL,
            r"conv1.bias is \(6,\)",
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


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_damaged_file_is_one_line_that_names_it(place, tmp_path):
    """A byte that flips in the arrays, or a file that ends early."""
    path = tmp_path / "weights.npz"
    np.savez(path, **WEIGHTS)
    content = path.read_bytes()
    where = int(place * len(content))
    for harmed in (content[:where], content[:where] + b"???" + content[where + 3 :]):
        path.write_bytes(harmed)
        with pytest.raises(ValueError, match=r"weights.npz is damaged|it holds no weights") as error:
            nets.load_weights(str(path), SMALL, DIGITS)
        assert "\n" not in str(error.value)


RESNET = nets.ResNet(((1, 3), (2, 4)), mean=(0.4, 0.5), deviation=(0.2, 0.3)).build(5)


def residual_weights():
    """A state dict of random arrays as torchvision's ResNet names them."""
    rng, found = np.random.default_rng(2), {}

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    def conv(name, norm, *shape):
        found[f"{name}.weight"] = 0.3 * normal(*shape)
        found[f"{norm}.weight"], found[f"{norm}.bias"] = normal(shape[0]), normal(shape[0])
        found[f"{norm}.running_mean"] = normal(shape[0])
        found[f"{norm}.running_var"] = np.square(normal(shape[0]))
        found[f"{norm}.num_batches_tracked"] = np.array(7)

    conv("conv1", "bn1", 3, 2, 7, 7)
    for block, inputs, outputs in (("1.0", 3, 3), ("2.0", 3, 4), ("2.1", 4, 4)):
        conv(f"layer{block}.conv1", f"layer{block}.bn1", outputs, inputs, 3, 3)
        conv(f"layer{block}.conv2", f"layer{block}.bn2", outputs, outputs, 3, 3)
    conv("layer2.0.downsample.0", "layer2.0.downsample.1", 4, 3, 1, 1)
    return found | {"fc.weight": normal(5, 4), "fc.bias": normal(5)}


RESIDUAL = residual_weights()


def as_torchvision(weights, x):
    """The logits of NCHW images by torchvision's definition of a residual network."""

    def conv(x, name, norm, stride, pad):
        pads = [(pad, pad)] * 2
        x = lax.conv_general_dilated(x, weights[f"{name}.weight"], (stride, stride), pads)
        parts = ("running_mean", "running_var", "weight", "bias")
        mean, var, scale, bias = (weights[f"{norm}.{part}"][:, None, None] for part in parts)
        return (x - mean[None]) / np.sqrt(var + 1e-5)[None] * scale[None] + bias[None]

    x = (x - np.float32([0.4, 0.5]).reshape(1, 2, 1, 1)) / np.float32([0.2, 0.3]).reshape(1, 2, 1, 1)
    x = jax.nn.relu(conv(x, "conv1", "bn1", 2, 3))
    pads = ((0, 0), (0, 0), (1, 1), (1, 1))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 3, 3), (1, 1, 2, 2), pads)
    for block, stride in (("1.0", 1), ("2.0", 2), ("2.1", 1)):
        name = f"layer{block}"
        out = jax.nn.relu(conv(x, f"{name}.conv1", f"{name}.bn1", stride, 1))
        out = conv(out, f"{name}.conv2", f"{name}.bn2", 1, 1)
        if stride > 1:
            x = conv(x, f"{name}.downsample.0", f"{name}.downsample.1", stride, 0)
        x = jax.nn.relu(x + out)
    return x.mean((2, 3)) @ weights["fc.weight"].T + weights["fc.bias"][None]


def test_a_residual_network_with_torchvisions_weights_has_its_logits():
    x = np.random.default_rng(1).uniform(size=(2, 2, 16, 16)).astype(np.float32)
    images = jnp.asarray(x.transpose(0, 2, 3, 1))
    logits, _ = RESNET.apply(from_torch(RESIDUAL, RESNET, images.shape), images)
    np.testing.assert_allclose(logits, as_torchvision(RESIDUAL, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bn1.running_var": -RESIDUAL["bn1.running_var"]}, "bn1.running_var holds -"),
        ({"layer3.0.bn1.bias": np.ones(4)}, "this network has no layer3.0.bn1.bias"),
        ({"fc.weight": RESIDUAL["fc.weight"][:4]}, r"fc.weight is \(4, 4\)"),
    ],
)
def test_weights_of_another_residual_network_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        from_torch(RESIDUAL | change, RESNET, (1, 16, 16, 2))
