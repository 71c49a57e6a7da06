"""Training of networks with batch normalisation: what moves their statistics, and what does not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from some_digits import few as few_digits

from knn_jax import defenses, mesh, nets, training
from knn_jax.nets import STATISTICS
from knn_jax.training import Adversary, Batch, Optim

pytestmark = pytest.mark.usefixtures("trains", "quick")
NET = nets.PreActResNet(((1, 3), (2, 4)), (0.4, 0.6), (0.2, 0.5))
SHAPE = (6, 8, 8, 2)
BASIC = defenses.CrossEntropy(nets.digits_preact_resnet())


class Noting:
    """The network, and what it was applied to and how."""

    def __init__(self, net):
        self.net, self.init, self.calls = net, net.init, []

    def apply(self, variables, x, train=False, **how):
        self.calls.append((x, train))
        return self.net.apply(variables, x, train, **how)


def test_an_adversary_uses_running_statistics_and_leaves_them():
    """They move once, by the perturbed images that are there."""
    module, images = NET.build(5), jax.random.uniform(jax.random.key(0), SHAPE)
    variables = module.init(jax.random.key(1), images)
    noting = Noting(module)
    adversary = Adversary("l2", steps=3, step_size=0.3)
    objective = defenses.CrossEntropy(NET, adversary=adversary).objective(noting)
    batch = Batch(images, images, jnp.arange(6, dtype=jnp.int32) % 5, jnp.arange(6) < 5)
    loss, found = objective.train_loss(variables, jax.random.key(0), batch)
    *ascents, (perturbed, there) = noting.calls
    assert ascents
    assert all(train is False for _, train in ascents)
    np.testing.assert_array_equal(there, batch.mask)
    assert np.abs(perturbed - images).max() > 0.1
    (logits, _), expected = module.apply(variables, perturbed, batch.mask, mutable=[STATISTICS])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), found, expected)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, batch.y)
    np.testing.assert_allclose(loss, expected, rtol=1e-3)


@pytest.fixture(scope="module")
def few():
    """100 digits to train on."""
    return few_digits(100)


def train(few, folder, devices=None, **knobs):
    return training.train(BASIC.objective(BASIC.module(10)), few, Optim(**knobs), folder, devices)


def close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), a, b)


@pytest.fixture
def descent(monkeypatch):
    """Adam divides by the size of a gradient, which makes much of rounding where it is nearly 0."""
    monkeypatch.setattr(optax, "adam", optax.sgd)


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
    defense = BASIC.objective(BASIC.module(10))
    x, y = jnp.asarray(few.train.floats(0, 100)), jnp.asarray(few.train.labels)
    batch = Batch(x, x, y, jnp.ones(100, bool))
    start, end = (
        train(few, tmp_path / str(epochs), epochs=epochs, drops=(25,), batch_size=50, peak_lr=0.01)
        for epochs in (0, 35)
    )
    before, after = (float(defense.loss(v, None, batch).mean()) for v in (start, end))
    assert after < 0.3 * before
    assert (defense.logits(end, x).argmax(1) == y).mean() > 0.9
