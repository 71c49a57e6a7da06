"""Qian, An & Su's IdResNet: layers that begin as the identity, the potential, subspaces, the attack."""

import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from victims import digits, flat

from knn_jax import (
    attacks,
    certificates,
    classifiers,
    cli,
    data,
    defenses,
    losses,
    measures,
    neighbors,
    nets,
)
from knn_jax.defenses.noise import drawn
from knn_jax.nets.idresnet import LEAST
from knn_jax.recipe import Evaluate, Recipe, fit
from knn_jax.training import Batch, Optim

pytestmark = pytest.mark.usefixtures("quick")
HOME = inspect.getmodule(attacks.kfgsm)
SUM = neighbors.Subspaces(2)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(load_digits().images[:40, ..., None] / 16, jnp.float32)


def net_of(**knobs):
    return nets.IdResNet(10, subspaces=2, dim=3, **knobs).build(10)


def apart(query, rows, count=2):
    """Sums of distances, in float64."""
    query, rows = (np.asarray(a, np.float64).reshape(len(a), count, -1) for a in (query, rows))
    return np.sqrt(((query[:, None] - rows[None]) ** 2).sum(-1)).sum(-1)


def energies(distance, same, classes=10, decay=0.5, near=7.0):
    """By the definition, in float64."""
    over = np.exp(-decay * distance) - np.exp(-decay * near)
    return np.where(same, np.where(distance >= near, -over, 0), over / classes)


@pytest.mark.parametrize("shared", [True, False])
def test_it_begins_as_the_identity_and_can_learn(shared, images):
    net = net_of(shared=shared)
    variables = net.init(jax.random.key(0), images)
    points, taps = net.apply(variables, images)
    for tap in ("dec1", "dec2", "dec3"):
        np.testing.assert_array_equal(taps[tap], taps["ots"])
    np.testing.assert_array_equal(points, taps["ots"][:, :6])
    np.testing.assert_array_equal(points, taps["cl"])

    def total(parameters):
        return jnp.sum(net.apply({**variables, "params": parameters}, images)[0] ** 2)

    slopes = jax.grad(total)(variables["params"])
    assert all(bool(jnp.any(leaf != 0)) for name in slopes for leaf in jax.tree.leaves(slopes[name]))


def test_a_convolutional_branch_keeps_images_and_begins_as_the_identity(images):
    """Of 8x8 pixels and one channel: ots and the layers are 5x5 to 1, a point the first 6 of 64."""
    net = net_of(channels=1)
    variables = net.init(jax.random.key(0), images)
    points, taps = net.apply(variables, images)
    for tap in ("dec1", "dec2", "dec3"):
        np.testing.assert_array_equal(taps[tap], taps["ots"])
    np.testing.assert_array_equal(points, taps["ots"][:, :6])
    sizes = {name: [a.size for a in jax.tree.leaves(p)] for name, p in variables["params"].items()}
    assert sizes == {"ots": [1, 25], "dec": [1, 25], "cl": [6, 64 * 6]}
    # A pixel moves its own window of 5x5 in ots, and nothing else.
    moved = images.at[:, 4, 4].add(0.1)
    near = np.asarray(net.apply(variables, moved)[1]["ots"] != taps["ots"]).reshape(-1, 8, 8)
    assert near.any(0)[2:7, 2:7].all()
    assert near.sum() == near[:, 2:7, 2:7].sum()


def test_an_image_holds_a_point():
    net = nets.IdResNet(0, subspaces=2, dim=33, channels=1).build(10)
    with pytest.raises(ValueError, match="channels=1: too few for the 66 of a point"):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


def test_layers_share_their_weights_or_not(images):
    """16 numbers of 64 pixels, 16 of 16 once or three times, 6 of 16."""
    for shared, layers in ((True, 1), (False, 3)):
        variables = jax.eval_shape(net_of(shared=shared).init, jax.random.key(0), images)
        count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        assert count == 65 * 16 + layers * 17 * 16 + 17 * 6


def test_without_identity_it_is_a_simple_network(images):
    net = net_of(shared=False, identity=False)
    variables = net.init(jax.random.key(0), images)
    _, taps = net.apply(variables, images)
    own = variables["params"]["dec2"]["Dense_0"]
    expected = np.maximum(taps["dec1"], 0) @ own["kernel"] + own["bias"][None]
    np.testing.assert_allclose(taps["dec2"], expected, rtol=1e-5, atol=1e-6)


def test_pixels_are_normalised_by_the_training_set_and_noise_is_added(images):
    split = data.Split(np.asarray(images), np.arange(40, dtype=np.int32))
    two = data.typical(split)
    assert two.shape == (2, 8, 8, 1)
    net = net_of()
    variables = net.init(jax.random.key(0), jnp.asarray(two))
    array = np.asarray(images, np.float64)
    np.testing.assert_allclose(variables["batch_stats"]["mean"], array.mean(0), atol=1e-6)
    np.testing.assert_allclose(variables["batch_stats"]["std"], array.std(0), atol=1e-6)
    noise = drawn("normal", jax.random.key(1), images.shape)
    moved = (array - array.mean(0)) / np.maximum(array.std(0), LEAST) + np.asarray(noise)
    ots = variables["params"]["ots"]
    _, taps = net.apply(variables, images, noise=noise)
    expected = moved.reshape(40, -1) @ np.asarray(ots["kernel"], np.float64) + np.asarray(ots["bias"])
    np.testing.assert_allclose(taps["ots"], expected, rtol=1e-4, atol=1e-4)


def test_the_constant_of_a_convolution_counts_its_windows(images):
    """A kernel of ones moves an image that is brighter all over by some 25 times what a pixel moves."""
    net = net_of(channels=1)
    variables = net.init(jax.random.key(0), images)
    parameters = variables["params"]
    ots = jax.tree.map(jnp.ones_like, parameters["ots"])
    variables = {**variables, "params": {**parameters, "ots": ots}}
    variables["batch_stats"] = jax.tree.map(jnp.ones_like, variables["batch_stats"])
    one, two = (net.apply(variables, jnp.full((1, 8, 8, 1), v))[1]["ots"] for v in (0.0, 0.1))
    ratio = jnp.linalg.norm(two - one) / 0.8
    assert 15 < ratio <= net.lipschitz(variables, "ots")


@pytest.mark.parametrize("kind", ["binomial", "uniform", "normal"])
def test_noise_of_every_kind_has_the_same_variance(kind):
    noise = np.asarray(drawn(kind, jax.random.key(0), (100, 40, 40, 1)), np.float64)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.var() - 5) < 0.05
    if kind == "binomial":
        values, counts = np.unique(noise, return_counts=True)
        np.testing.assert_array_equal(values, [-5, -3, -1, 1, 3, 5])
        np.testing.assert_allclose(counts / noise.size, np.array([1, 5, 10, 10, 5, 1]) / 32, atol=5e-3)


def test_the_potential_is_its_definition_also_at_its_edges():
    distance = np.array([0, 1e-6, 1, 6.999, 7, 7.001, 7.5, 100, 1e4])
    for same in (True, False):
        found = losses.potential(
            jnp.asarray(distance, jnp.float32), jnp.full(9, same), 10, decay=0.5, near=7.0
        )
        np.testing.assert_allclose(found, energies(distance, same), rtol=2e-3, atol=1e-9)
    slope = jax.vmap(jax.grad(lambda d, s: losses.potential(d, s, 10, decay=0.5, near=7.0)), (0, None))
    points = jnp.array([0.0, 6.9, 7.1, 1e4])
    forces = 0.5 * np.exp(-0.5 * np.asarray(points))
    np.testing.assert_allclose(slope(points, jnp.bool_(False)), -forces / 10, rtol=1e-5)
    np.testing.assert_allclose(slope(points, jnp.bool_(True)), [0, 0, forces[2], forces[3]], rtol=1e-5)


def test_the_potential_is_finite_however_far_it_reaches():
    points = jnp.array([0.0, 100.0, 199.0, 200.0, 201.0])
    for same in (True, False):
        found = losses.potential(points, jnp.full(5, same), 10, decay=0.5, near=200.0)
        assert jnp.isfinite(found).all()
    np.testing.assert_allclose(found[:2], np.exp([-0.0, -50.0]) / 10, rtol=1e-5)


def test_distances_by_matmul_are_the_metrics_and_have_slopes_everywhere():
    rng = np.random.default_rng(0)
    one, other = (jnp.asarray(rng.normal(size=(n, 6)), jnp.float32) for n in (5, 7))
    other = other.at[0].set(one[0])  # at distance zero
    found = losses.subspace_distances(one, other, 2)
    np.testing.assert_allclose(found, apart(one, other), rtol=1e-4, atol=1e-5)
    assert found[0, 0] == 0
    slope = jax.grad(lambda a: losses.subspace_distances(a, other, 2).sum())(one)
    exact = jax.grad(lambda a: SUM.distance(a[:, None], other[None]).sum())(one)
    np.testing.assert_allclose(slope, exact, rtol=1e-3, atol=1e-4)


def test_the_loss_is_its_definition_and_takes_who_is_there(images):
    net = net_of()
    variables = net.init(jax.random.key(0), images)
    y, there = jnp.arange(40, dtype=jnp.int32) % 10, jnp.arange(40) < 30
    value = defenses.IdResNet(nets.IdResNet(10, dim=3), noise=None, pull=0.3, near=1.0)
    defense = value.objective(net)
    found = defense.loss(variables, jax.random.key(1), Batch(images, images, y, there))[:30]
    points = np.asarray(net.apply(variables, images)[0])[:30]
    same = np.asarray(y[:30, None] == y[None, :30])
    pairs = energies(apart(points, points), same, near=1.0)
    assert (pairs[same] > 0).any()
    assert (pairs[same] == 0).any()
    expected = pairs.mean(1) + 0.3 * apart(points, np.zeros((1, 6)))[:, 0] ** 2
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_noisy_network_is_trained_by_cross_entropy(images):
    net = net_of()
    batch = Batch(images, images, jnp.arange(40, dtype=jnp.int32) % 6, jnp.ones(40, bool))
    variables = net.init(jax.random.key(0), images)
    noise = drawn("uniform", jax.random.key(1), images.shape)
    expected = losses.cross_entropy(net.apply(variables, images, noise=noise)[0], batch.y)
    value = defenses.Noisy(nets.IdResNet(10, dim=3), noise="uniform")
    defense = value.objective(net)
    np.testing.assert_array_equal(defense.loss(variables, jax.random.key(1), batch), expected)


@pytest.fixture(scope="module")
def victim(quick):
    """A 5-NN of 200 digits by the sum of distances in the upper and the lower half."""
    model, x, y = digits()
    return classifiers.knn(flat, model.images, model.labels, k=5, metric=SUM), x, y


def test_neighbours_are_those_of_the_summed_distances(victim):
    model, x, _ = victim
    distance = apart(flat(x), model.banks[0])
    order = np.argsort(distance, 1, kind="stable")[:, :5]
    votes = np.stack([np.bincount(np.asarray(model.labels)[row], minlength=10) for row in order])
    np.testing.assert_array_equal(model.votes(x), votes)
    plain = np.argsort(apart(flat(x), model.banks[0], 1), 1, kind="stable")[:, :5]
    assert (np.sort(order) != np.sort(plain)).any()  # the metric matters


def test_soft_votes_become_the_hard_ones(victim):
    model, x, _ = victim
    references = model.references(x)
    np.testing.assert_array_equal(model.soft_votes(x, references, 0.0), model.votes(x))
    (squared,) = model.squared_distances(x, references)
    nearest = np.sort(apart(flat(x), model.banks[0]))[:, :5] ** 2
    found = np.sort(np.asarray(squared).reshape(30, -1))[:, :5]
    np.testing.assert_allclose(found, nearest, rtol=1e-5)
    slope = jax.grad(lambda z: model.soft_votes(z, references, 1.0)[:, 0].sum())(x)
    assert np.isfinite(slope).all()
    assert (np.abs(slope).max((1, 2, 3)) > 0).all()


@pytest.mark.parametrize("certificate", [certificates.margin, certificates.voronoi])
def test_certificates_refuse_summed_distances(certificate, victim):
    with pytest.raises(ValueError, match="Subspaces"):
        certificate(*victim)


def everywhere(model, z, y, near):
    """The potential of all rows at once."""
    distance = SUM.distance(flat(z)[:, None], model.banks[0][None])
    same = model.labels[None] == y[:, None]
    return losses.potential(distance, same, 10, decay=0.5, near=near).sum(1)


@pytest.mark.parametrize("tile", [7, 1000])
def test_its_loss_is_the_potential_of_all_rows(tile, victim, monkeypatch):
    """The last tile is filled up; the slope is the same."""
    model, x, y = victim
    monkeypatch.setattr(HOME, "TILE", tile)
    numbers = jnp.float32(0.5), jnp.float32(2.0)
    found = jax.value_and_grad(lambda z: HOME.potential(model, z, y, *numbers).sum())(x)
    expected = jax.value_and_grad(lambda z: everywhere(model, z, y, 2.0).sum())(x)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_a_step_is_the_sign_of_the_slope_from_the_image_itself(victim):
    model, x, y = victim
    slope = jax.grad(lambda z: everywhere(model, z, y, 2.0).sum())(x)
    expected = jnp.clip(x + 0.3 * jnp.sign(slope), 0, 1)
    found = attacks.kfgsm(jax.random.key(0), model, x, y, eps=0.5, steps=1, step_size=0.3, near=2.0)
    fell = np.asarray(found.success & (found.norm > 0))
    assert fell.any()
    np.testing.assert_allclose(found.image[fell], expected[fell], atol=1e-6)


def test_no_more_than_a_tile_of_distances_is_held(victim, monkeypatch):
    model, x, y = victim
    monkeypatch.setattr(HOME, "TILE", 20)
    slope = jax.grad(lambda z: HOME.potential(model, z, y, 0.5, 7.0).sum())
    shapes = {aval.shape for aval in intermediates(jax.make_jaxpr(slope)(x).jaxpr)}
    assert (30, 20) in shapes
    assert not any(30 in shape and 200 in shape for shape in shapes)
    assert max(int(np.prod(shape)) for shape in shapes) <= 200 * 64  # the bank itself


def intermediates(jaxpr):
    for equation in jaxpr.eqns:
        yield from (variable.aval for variable in equation.outvars)
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from intermediates(inner)


def test_the_loss_attacked_is_without_noise_on_rows_a_and_b(images):
    value, x = defenses.Noisy(nets.IdResNet(10, subspaces=1, dim=10)), images[:8]
    net = value.module(10)
    variables, y = net.init(jax.random.key(0), x), jnp.arange(8) % 10
    found = (
        value.plain()
        .objective(net)
        .loss(variables, jax.random.key(1), Batch(x, x, y, jnp.ones(8, bool)))
    )
    np.testing.assert_allclose(found, losses.cross_entropy(net.apply(variables, x)[0], y), rtol=1e-5)


def test_noise_is_drawn_by_the_key(images):
    value = defenses.IdResNet(nets.IdResNet(10, dim=3))
    net, y = value.module(10), jnp.arange(40, dtype=jnp.int32) % 10
    variables = net.init(jax.random.key(0), images)
    batch, loss = Batch(images, images, y, jnp.ones(40, bool)), value.objective(net).loss
    first, other = (loss(variables, jax.random.key(n), batch) for n in (0, 1))
    assert (first != other).all()


def test_a_recipe_from_training_to_attack(trains, tmp_path):
    """One epoch on digits, its attack in balls, its points, and smoothing, which covers any."""
    recipe = Recipe(
        name="idresnet",
        data=data.Digits(),
        defense=defenses.IdResNet(nets.IdResNet(64, dim=3), pull=0.01),
        optim=Optim(epochs=1),
        classifier=fit.KNN(layers=("cl",), k=20, metric=SUM),
        attacks={"kfgsm": attacks.KFGSM(steps=3, step_size=0.3)},
        certificates={"smoothing": certificates.Smoothing(0.1, samples=20)},
        measures={"points": measures.Points(50)},
        evaluate=Evaluate(
            images=6, certified_images=4, norms=("linf",), radii_linf=(0.1, 0.3), chunk=6
        ),
    )
    cli.attack(recipe, str(tmp_path))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["clean_acc"] > 0.5
    assert (tmp_path / "clusters.png").read_bytes().startswith(b"\x89PNG")
    assert "clusters.png" in (tmp_path / "report.html").read_text()
    [smoothed] = report["certificates"]
    assert (smoothed["name"], smoothed["n"]) == ("smoothing", 4)
    dataset = recipe.data.load()
    with np.load(tmp_path / "adversarial.npz") as found:
        moved = np.abs(found["kfgsm_linf"] - dataset.test.floats(0, 6)).max((1, 2, 3))
    assert (moved <= 0.3 + 1e-6).all()
    system = fit.system(recipe.defense, recipe.classifier, recipe.optim, dataset, tmp_path)
    assert system.model.metric == SUM
    array = dataset.train.floats(0, len(dataset.train.labels)).astype(np.float64)
    statistics = system.trained.variables["batch_stats"]
    np.testing.assert_allclose(statistics["mean"], array.mean(0), atol=1e-5)
