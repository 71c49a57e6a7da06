"""The networks of papers 2 and 4: their parameters, what their taps are, what they may not do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knn_jax import config, nets
from knn_jax.defenses import STATISTICS
from knn_jax.nets import resnet, strided, vgg

pytestmark = pytest.mark.usefixtures("quick")
SMALL = {
    "vgg": vgg.VGG(((1, 3), (2, 4)), (5,), 3),
    "resnet": resnet.ResNet(((1, 3), (1, 4)), 3),
    "resnet of small images": resnet.ResNet(((1, 3), (1, 4)), 3, large=False),
    "strided": strided.Strided(((3, 3, 1), (4, 4, 2)), (5,), 3),
}
SHAPE = (5, 8, 8, 2)
each = pytest.mark.parametrize("name", SMALL)


@pytest.mark.parametrize(
    ("name", "side", "parameters", "taps"),
    [
        ("cifar10_vgg", 32, 15_253_578, [16384, 8192, 4096, 2048, 512]),
        ("cifar10_strided", 32, 2_567_146, [86400, 75264, 16224, 23232, 3072]),
        ("cifar_resnet18", 32, 11_173_962, [65536, 65536, 32768, 16384, 8192]),
        ("imagenette_resnet18", 128, 11_181_642, [65536, 65536, 32768, 16384, 8192]),
    ],
)
def test_the_papers_networks_are_theirs(name, side, parameters, taps):
    net, shape = nets.build(config.Net(name=name), 10), (1, side, side, 3)
    variables = jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters
    found = nets.taps(net, variables, shape)
    found.pop("pool", None)
    assert found == {f"conv{n}": (1, size) for n, size in enumerate(taps, 1)}


@functools.cache
def drawn(name):
    """Variables of which none are alike, variances above 0, and images."""
    fresh = jax.eval_shape(SMALL[name].init, jax.random.key(0), jnp.zeros(SHAPE))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda a: jnp.asarray(rng.uniform(0.2, 1.0, a.shape) - 0.4 * (a.ndim > 1), jnp.float32), fresh
    )
    return variables, jnp.asarray(rng.random(SHAPE), jnp.float32)


@functools.cache
def program(name, train):
    return jax.jit(
        lambda variables, x, there: SMALL[name].apply(
            variables, x, there if train else False, mutable=[STATISTICS] if train else False
        )
    )


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
    _, taps = program(name, False)(variables, x, jnp.ones(5, bool))
    np.testing.assert_allclose(taps["conv1"], pooled.reshape(5, -1), rtol=2e-4, atol=1e-5)


@each
def test_who_is_not_there_moves_no_statistics(name):
    variables, x = drawn(name)
    there = jnp.array([True, True, False, True, False])
    (logits, _), moved = program(name, True)(variables, x, there)
    other = x.at[2].set(0.9).at[4].set(0.1)
    (again, _), same = program(name, True)(variables, other, there)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), moved, same)
    np.testing.assert_allclose(logits[there], again[there], rtol=1e-4, atol=1e-5)
    before = jax.tree.leaves(variables[STATISTICS])
    moved = jax.tree.leaves(moved[STATISTICS])
    assert all((a != b).any() for a, b in zip(before, moved, strict=True))


@each
def test_no_pair_of_images_violates_the_constant(name):
    variables, x = drawn(name)
    net = SMALL[name]
    other = x + 0.01 * jax.random.normal(jax.random.key(1), x.shape)
    ends = (program(name, False)(variables, a, jnp.ones(5, bool)) for a in (x, other))
    one, two = ({**taps, "fc": output} for output, taps in ends)
    apart = np.linalg.norm(np.asarray(x - other).reshape(5, -1), axis=1)
    for layer in one:
        moved = np.linalg.norm(one[layer] - two[layer], axis=1)
        assert (moved <= net.lipschitz(variables, layer) * apart).all()
        assert (moved > 0).any()
    with pytest.raises(ValueError, match="no Lipschitz constant of the layer 'conv9'"):
        net.lipschitz(variables, "conv9")


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
    whole, half = (resnet.ResNet(((1, 3), (1, 4)), 3, large=False, half=half) for half in (False, True))
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
