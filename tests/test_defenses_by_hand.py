"""Losses of defenses by hand, and images that are perturbed as far as they may be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from some_digits import digits

from knn_jax import data, defenses, losses, nets
from knn_jax.defenses.mixup import mixed, partners
from knn_jax.training import Adversary, Batch, Objective

pytestmark = pytest.mark.usefixtures("quick")
CONVNET = nets.ConvNet(((4, 3, 2, 1), (6, 2, 2, 0)))


@pytest.fixture(scope="module")
def batch():
    """32 digits."""
    split = digits().train
    x = jnp.asarray(split.floats(0, 32))
    return Batch(x, x, jnp.asarray(split.labels[:32]), jnp.ones(32, bool))


def test_partners_are_a_permutation_of_those_that_are_there():
    there = jnp.arange(50) % 3 != 0
    found = [partners(jax.random.key(seed), there) for seed in range(2)]
    for partner in found:
        assert sorted(partner.tolist()) == list(range(50))
        assert there[partner[there]].all()
    assert (found[0][there] != found[1][there]).any()
    # A full batch is permuted as JAX permutes.
    every = partners(jax.random.key(0), jnp.ones(50, bool))
    np.testing.assert_array_equal(every, jax.random.permutation(jax.random.key(0), 50))


def neighbour_loss(features, y, temperature):
    """By its definition, in float64."""
    features, found = np.asarray(features, np.float64), []
    for i in range(len(y)):
        weight = np.exp(-((features - features[i]) ** 2).sum(1) / temperature)
        weight[i] = 0
        same = weight[y == y[i]].sum()
        alone = (y == y[i]).sum() == 1
        found.append(0.0 if alone else -np.log(same / weight.sum()))
    return found


def test_soft_nearest_neighbors_is_its_definition_whatever_fills_the_batch():
    rng = np.random.default_rng(0)
    y = np.array([0, 0, 0, 1, 1, 2, 0, 1])  # one is alone of its class
    features = rng.normal(size=(8, 5)).astype(np.float32)
    expected = neighbour_loss(features, y, 3.0)
    filled = np.concatenate([features, features[:3]]), np.concatenate([y, [2, 2, 2]])
    there = jnp.arange(11) < 8
    loss, gradient = jax.value_and_grad(
        lambda f: losses.soft_nearest_neighbors(f, jnp.asarray(filled[1]), there, 3.0).sum()
    )(jnp.asarray(filled[0]))
    np.testing.assert_allclose(loss, sum(expected), rtol=1e-5)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[8:], 0)
    assert np.abs(gradient[:8]).min() > 0


def test_soft_neighbors_adds_every_layer_but_the_last(batch):
    net = CONVNET.build(10)
    defense = defenses.SoftNeighbors(CONVNET, 0.5).objective(net)
    plain = defenses.CrossEntropy(CONVNET).objective(net)
    variables = net.init(jax.random.key(0), batch.x)
    _, taps = net.apply(variables, batch.x)
    added = sum(
        losses.soft_nearest_neighbors(taps[tap], batch.y, batch.mask, 100.0)
        for tap in ("relu1", "relu2")
    )
    found = defense.loss(variables, None, batch) - plain.loss(variables, None, batch)
    np.testing.assert_allclose(found, 0.5 * added, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stages", [1, 4])
def test_mixup_is_between_what_it_mixes(stages, batch):
    """Of equal images the loss is cross-entropy to both labels, in a share drawn once a batch."""
    same = batch._replace(x=jnp.broadcast_to(batch.x[:1], batch.x.shape))
    net = CONVNET.build(10)
    variables = net.init(jax.random.key(0), batch.x)
    defense, logits = mixed(net, stages), net.apply(variables, same.x)[0]
    of_class = -jax.nn.log_softmax(logits[0])
    for seed in range(3):
        key = jax.random.key(seed)
        share, partner, _ = jax.random.split(key, 3)
        share = jax.random.uniform(share)
        other = batch.y[jax.random.permutation(partner, 32)]
        expected = share * of_class[batch.y] + (1 - share) * of_class[other]
        np.testing.assert_allclose(defense.loss(variables, key, same), expected, rtol=1e-4)


def test_mixup_reaches_every_stage_and_no_other(batch):
    """What is between two layers changes what comes after, and only that."""
    net = CONVNET.build(10)
    variables = net.init(jax.random.key(0), batch.x)
    _, plain = net.apply(variables, batch.x)
    taps = ("image", *plain)
    for stage in range(len(taps)):
        seen = []

        def between(number, x, stage=stage, seen=seen):
            seen.append(number)
            return x[::-1] if number == stage else x

        _, found = net.apply(variables, batch.x, between=between)
        assert seen == [0, 1, 2, 3]
        for number, tap in enumerate(taps[1:], 1):
            expected = plain[tap][::-1] if number >= stage else plain[tap]
            np.testing.assert_allclose(found[tap], expected, rtol=1e-5, atol=1e-5)


def test_an_autoencoder_restores_the_clean_image(batch):
    value = nets.Autoencoder(CONVNET.layers, 16, 8)
    net = value.build(10)
    variables = net.init(jax.random.key(0), batch.x)
    perturbed = batch._replace(x=1 - batch.x)
    found = net.apply(variables, perturbed.x)[0]
    expected = ((found - batch.clean.reshape(32, -1)) ** 2).sum(1)
    loss = defenses.Autoencoder(value).objective(net).loss(variables, None, perturbed)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_the_variational_bound_by_hand(batch):
    """With all parameters zero pixels are fair coins, one bit each, and the code costs nothing."""
    value = nets.VAE(CONVNET.layers, 16, 8)
    net = value.build(10)
    variables = jax.tree.map(jnp.zeros_like, net.init(jax.random.key(0), batch.x))
    defense = defenses.VAE(value).objective(net)
    np.testing.assert_allclose(defense.loss(variables, jax.random.key(0), batch), 1.0, rtol=1e-6)
    variables["params"]["mean"]["bias"] += 2.0  # 8 numbers: 8 x 2^2 / 2 nats, over 64 pixels
    expected = 1 + 8 * 2 / (64 * np.log(2))
    np.testing.assert_allclose(defense.loss(variables, jax.random.key(0), batch), expected, rtol=1e-6)


def test_the_lipschitz_loss_parts_classes_up_to_a_limit(batch):
    value = nets.LipschitzAutoencoder(((6, 2), (8, 2)), 8, 16)
    net = value.build(10)
    variables = net.init(jax.random.key(0), batch.x)
    filled = batch._replace(mask=jnp.arange(32) < 20)
    found, taps = net.apply(variables, batch.x)
    code, y = np.asarray(taps["bottleneck"], np.float64), np.asarray(batch.y)
    squared = ((code[:, None] - code[None]) ** 2).sum(-1)
    other = (np.arange(32) < 20)[None] & ~np.eye(32, dtype=bool)
    same = y[:, None] == y[None]
    own, rival = (np.where(other & of, squared, np.inf).min(1) for of in (same, ~same))
    own = np.where(np.isinf(own), 0, own)
    limit = float(np.median(rival))
    error = ((np.asarray(found) - np.asarray(batch.x).reshape(32, -1)) ** 2).sum(1)
    expected = error + 3 * (own - np.minimum(rival, limit))
    defense = defenses.LipschitzAutoencoder(value, weight=3.0, apart=limit)
    loss = defense.objective(net).loss(variables, None, filled)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def linear(weights):
    """Loss that rises along `weights`."""

    def loss(variables, key, batch):
        return jnp.sum(batch.x * weights, (1, 2, 3)) * variables

    return Objective(lambda key, x: 1.0, loss, None)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.6), ("l2", None)])
def test_training_images_are_perturbed_as_far_as_they_may(norm, eps):
    """On a linear loss: to the edge of the ball along the gradient, or 30 steps of .1 without one."""
    weights = np.random.default_rng(0).normal(size=(1, 4, 4, 1)).astype(np.float32)
    defense = defenses.adversarial(linear(jnp.asarray(weights)), Adversary(norm, eps, 30, 0.1))
    x = jnp.full((3, 4, 4, 1), 0.5)
    batch = Batch(x, x, jnp.zeros(3, jnp.int32), jnp.ones(3, bool))
    loss = defense.loss(jnp.ones(()), jax.random.key(0), batch) - (0.5 * weights).sum()
    if norm == "linf":
        expected = 0.1 * np.abs(weights).sum()
    elif eps:
        expected = 0.6 * np.linalg.norm(weights)
    else:
        # Far beyond any ball, so the box decides: every pixel ends at the side its weight points to,
        # but for those whose steps are too short to arrive.
        corner = 0.5 * np.abs(weights).sum()
        assert (np.asarray(loss) > 0.9 * corner).all()
        assert (np.asarray(loss) <= corner * (1 + 1e-5)).all()
        return
    np.testing.assert_allclose(loss, expected, rtol=1e-3)


def test_the_gradient_takes_the_perturbed_image_as_it_is():
    """It does not go through the steps that made it."""
    weights = jnp.ones((1, 2, 2, 1))
    defense = defenses.adversarial(linear(weights), Adversary("linf", 0.1, 3, 0.1))
    x = jnp.full((1, 2, 2, 1), 0.5)
    batch = Batch(x, x, jnp.zeros(1, jnp.int32), jnp.ones(1, bool))
    value, gradient = jax.value_and_grad(lambda v: defense.loss(v, jax.random.key(0), batch).sum())(
        jnp.ones(())
    )
    np.testing.assert_allclose([value, gradient], [2.4, 2.4], rtol=1e-5)


def test_rotated_images_turn_counterclockwise():
    image = np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1)[:, :, :2]
    split = data.Split(image, np.array([7], np.int32))
    found = data.rotated(data.Dataset(split, split, split, 10))
    assert found.classes == 4
    for part in found[:3]:
        np.testing.assert_array_equal(part.labels, [0, 1, 2, 3])
        for turns in range(4):
            np.testing.assert_array_equal(part.images[turns, ..., 0], np.rot90(image[0, ..., 0], turns))
