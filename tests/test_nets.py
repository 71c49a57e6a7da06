"""What every network keeps to, on one list of values: a new network is tested by adding it here."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knn_jax import nets, values
from knn_jax.nets import STATISTICS

pytestmark = pytest.mark.usefixtures("quick")
LAYERS = (4, 3, 2, 1), (6, 2, 2, 0)
SHAPE = (5, 8, 8, 2)
CLASSES = 6
NETS = [
    nets.ConvNet(LAYERS),
    nets.Autoencoder(LAYERS, 16, 8),
    nets.VAE(LAYERS, 16, 8),
    nets.LipschitzAutoencoder(((6, 2), (8, 2)), 8, 16),
    nets.LipschitzAutoencoder(((6, 2), (8, 2)), 8, 16, sweeps=0),
    nets.PreActResNet(((1, 3), (2, 4)), (0.4, 0.6), (0.2, 0.5)),
    nets.ResNet(((1, 3), (1, 4))),
    nets.ResNet(((1, 3), (1, 4)), large=False),
    nets.VGG(((1, 3), (2, 4)), (5,)),
    nets.AllConv(((3, 3, 1), (4, 4, 2)), (5,)),
    *(
        nets.IdResNet(10, 2, 3, shared=shared, identity=identity, channels=channels)
        for shared in (True, False)
        for identity in (True, False)
        for channels in (None, 2)
    ),
    nets.RaCNN(((3, 3, 1), (4, 4, 2)), 6, (5,)),
    nets.FrozenRaCNN(nets.ResNet(((1, 3), (1, 4)))),
    nets.MLP((7, 5)),
    nets.Pixels(),
]
each = pytest.mark.parametrize("net", NETS, ids=repr)


@functools.cache
def drawn(net):
    """Variables of which none are alike, variances above 0, and images."""
    fresh = jax.eval_shape(net.build(CLASSES).init, jax.random.key(0), jnp.zeros(SHAPE))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda a: jnp.asarray(rng.uniform(0.2, 1.0, a.shape) - 0.4 * (a.ndim > 1), jnp.float32), fresh
    )
    if STATISTICS in fresh:
        variables[STATISTICS] = jax.tree.map(jnp.abs, variables[STATISTICS])
        variables[STATISTICS] = jax.tree.map(lambda a: jnp.maximum(a, 0.1), variables[STATISTICS])
    return variables, jnp.asarray(rng.random(SHAPE), jnp.float32)


@functools.cache
def evaluated(net):
    """The network with running statistics, compiled once for all tests."""
    return jax.jit(net.build(CLASSES).apply)


@each
def test_a_value_says_all_that_it_builds(net):
    again = eval(repr(net), vars(nets))
    assert again == net
    assert again.build(CLASSES) == net.build(CLASSES)
    assert hash(again.build(CLASSES)) == hash(net.build(CLASSES))
    assert json.loads(json.dumps(values.told(net)))["class"] == type(net).__name__


@each
def test_layers_have_the_shapes_that_are_told(net):
    variables, x = drawn(net)
    output, layers = evaluated(net)(variables, x)
    assert nets.taps(net.build(CLASSES), variables, SHAPE) == {k: v.shape for k, v in layers.items()}
    for values_ in (output, *layers.values()):
        assert values_.ndim == 2
        assert len(values_) == len(x)
        assert np.isfinite(values_).all()
    if net.classifies:
        assert output.shape == (len(x), CLASSES)


@each
def test_an_evaluated_image_does_not_know_its_batch(net):
    variables, x = drawn(net)
    one, other = (evaluated(net)(variables, a) for a in (x, x.at[1:].multiply(0.5)))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a[0], b[0], rtol=1e-4, atol=1e-4 * float(jnp.abs(a).max()))
        assert (a[1:] != b[1:]).any()


@pytest.mark.parametrize("net", [net for net in NETS if net.lipschitz], ids=repr)
def test_no_pair_of_images_violates_its_lipschitz_constant(net):
    module, (variables, x) = net.build(CLASSES), drawn(net)
    assert isinstance(module, nets.Bounded)
    far = jax.random.uniform(jax.random.key(2), SHAPE)
    near = x + 0.01 * jax.random.normal(jax.random.key(1), SHAPE)
    one, *others = (evaluated(net)(variables, a) for a in (x, far, near))
    names = {*one[1]} | ({"fc"} if net.classifies else set())
    for other, images in zip(others, (far, near), strict=True):
        apart = np.linalg.norm(np.asarray(x - images).reshape(5, -1), axis=1)
        for layer in names:
            ends = (found[1].get(layer, found[0]) for found in (one, other))
            moved = np.linalg.norm(np.subtract(*ends), axis=1)
            bound = module.lipschitz(variables, layer)
            assert 0 < bound < np.inf
            assert (moved <= bound * apart * (1 + 1e-5)).all(), layer
            assert (moved > 0).any(), layer


@pytest.mark.parametrize("net", NETS, ids=repr)
def test_a_layer_without_a_constant_is_refused(net):
    """But where it is the same for all: of pixels, of the Lipschitz autoencoder's code; or has none."""
    module, (variables, _) = net.build(CLASSES), drawn(net)
    if isinstance(net, nets.Pixels | nets.LipschitzAutoencoder):
        return
    if not net.lipschitz:
        assert module.lipschitz(variables, "embedding") == np.inf
        return
    with pytest.raises(ValueError, match="no Lipschitz constant of the layer 'conv9'"):
        module.lipschitz(variables, "conv9")


TRAINED = [net for net in NETS if net.batch_norm and not isinstance(net, nets.FrozenRaCNN)]


@pytest.mark.parametrize("net", TRAINED, ids=repr)
def test_fillers_of_a_batch_move_no_statistics(net):
    """All statistics move, and neither they nor the others' output know who is not in the mask."""
    variables, x = drawn(net)
    mask = jnp.array([True, True, False, True, False])
    apply = functools.partial(net.build(CLASSES).apply, mutable=[STATISTICS])
    program = jax.jit(lambda x: apply(variables, x, mask))
    (logits, _), moved = program(x)
    (again, _), same = program(x.at[2].set(0.9).at[4].set(0.1))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), moved, same)
    np.testing.assert_allclose(logits[mask], again[mask], rtol=1e-4, atol=1e-5)
    before, after = jax.tree.leaves(variables[STATISTICS]), jax.tree.leaves(moved[STATISTICS])
    assert all((a != b).any() for a, b in zip(before, after, strict=True))


# Named sizes: parameters, as the papers' code counts them or by hand, and some layers.
TRUNK = {"relu1": 12544, "relu2": 8192, "relu3": 2048}
SIZES = [
    # 64 x 8^2 + 64, 128 x 64 x 6^2 + 128, 128^2 x 5^2 + 128, 10 x 2048 + 10
    (nets.mnist_convnet, (28, 28, 1), 729_418, TRUNK | {"fc": 10}),
    (nets.mnist_autoencoder, (28, 28, 1), 1_945_840, TRUNK | {"relu4": 400, "latent": 128}),
    (nets.mnist_vae, (28, 28, 1), 1_997_168, TRUNK | {"relu4": 400, "mean": 128, "logvar": 128}),
    # The authors' code counts 11,171,152 with the mean and deviation of 3 channels, constants here.
    (
        nets.cifar10_preact_resnet,
        (32, 32, 3),
        11_171_152 - 6,
        {"layer1": 65536, "layer2": 32768, "layer3": 16384, "layer4": 8192},
    ),
    *(
        (net, shape, parameters, {f"conv{n}": size for n, size in enumerate(sizes, 1)})
        for net, shape, parameters, sizes in (
            (nets.cifar10_vgg, (32, 32, 3), 15_253_578, (16384, 8192, 4096, 2048, 512)),
            (nets.cifar10_all_conv, (32, 32, 3), 2_567_146, (86400, 75264, 16224, 23232, 3072)),
            (nets.cifar_resnet18, (32, 32, 3), 11_173_962, (65536, 65536, 32768, 16384, 8192)),
            (nets.imagenette_resnet18, (128, 128, 3), 11_181_642, (65536, 65536, 32768, 16384, 8192)),
        )
    ),
    # 2,078 numbers of 3,072 pixels, three shared layers of them, 30 numbers of a point
    (nets.cifar10_idresnet, (32, 32, 3), 3073 * 2078 + 2079 * 2078 + 2079 * 30, {"cl": 30}),
]


@pytest.mark.parametrize(("make", "shape", "parameters", "layers"), SIZES, ids=lambda v: "")
def test_named_networks_have_the_parameters_and_layers_of_their_papers(make, shape, parameters, layers):
    module, image = make().build(10), jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters
    found = nets.taps(module, variables, image.shape)
    found.pop("pool", None)
    assert layers.items() <= {name: dim for name, (_, dim) in found.items()}.items()
    assert isinstance(make(), nets.IdResNet) or {*found} == {*layers}


def test_imagenet_is_1000_classes_of_features_by_its_own_network():
    net, image = nets.imagenet_racnn(), jax.ShapeDtypeStruct((2, 128, 128, 3), jnp.float32)
    module, body = net.build(1000), net.body.build(1000)
    shapes, others = (jax.eval_shape(m.init, jax.random.key(0), image) for m in (module, body))
    assert jax.tree.structure(module.adopt(shapes, others)) == jax.tree.structure(shapes)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(others["params"]))
    assert parameters == 11_689_512  # of PyTorch's ResNet-18
    assert jax.eval_shape(module.apply, shapes, image)[0].shape == (2, 1000)


@pytest.mark.parametrize(
    "make",
    [make for name, make in vars(nets).items() if name.startswith(("digits_", "mnist_", "small_"))],
    ids=lambda make: make.__name__,
)
def test_every_small_size_takes_the_images_that_it_is_named_for(make):
    side = {"digits": (8, 1), "mnist": (28, 1), "small": (32, 3)}[make.__name__.split("_")[0]]
    image = jax.ShapeDtypeStruct((2, side[0], side[0], side[1]), jnp.float32)
    module = make().build(10)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    assert nets.taps(module, variables, image.shape)


def test_pixels_are_the_flattened_image():
    x = jnp.arange(24.0).reshape(2, 2, 3, 2) / 24
    (pixels,) = nets.features(nets.Pixels().build(10), {}, ("pixels",), (1, 2, 3, 2))(x)
    np.testing.assert_array_equal(pixels, x.reshape(2, 12))


@pytest.mark.parametrize(("layer", "hint"), [("relu4", r" \(did you mean 'relu[12]'\?\)"), ("zzz", "")])
def test_an_unknown_layer_is_answered_with_the_known_ones(layer, hint):
    module, (variables, _) = NETS[0].build(CLASSES), drawn(NETS[0])
    with pytest.raises(ValueError, match=f"no layer '{layer}'{hint}: this network's are ") as error:
        nets.features(module, variables, ("relu1", layer), SHAPE)
    assert sorted(str(error.value).rpartition(" are ")[2].split(", ")) == ["fc", "relu1", "relu2"]


def test_features_made_twice_share_their_program():
    variables, x = drawn(NETS[0])
    traced = jax.jit(lambda tap, x: tap(x))
    other = jax.tree.map(lambda leaf: 2 * leaf, variables)
    for numbers in (variables, other):
        traced(nets.features(NETS[0].build(CLASSES), numbers, ("relu1",), SHAPE), x)
    assert traced._cache_size() == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nets.LipschitzAutoencoder(((6, 2),), sweeps=-1), "sweeps=-1"),
        (lambda: nets.IdResNet(dim=0), "dim=0"),
        (lambda: nets.IdResNet(channels=0), "channels=0"),
    ],
)
def test_sizes_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
