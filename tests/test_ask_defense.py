"""AT, TRADES and ASK-Def: losses by hand, images in their balls, references of the right class."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knn_jax import balls, data, defenses, losses, nets
from knn_jax.defenses.robust_loss import by_forwarded
from knn_jax.nets import STATISTICS
from knn_jax.training import Adversary, Batch, References
from knn_jax.training.references import of_each_class

pytestmark = pytest.mark.usefixtures("trains", "quick")
KEY = jax.random.key(0)
NET = nets.ConvNet(((2, 3, 2, 1),))  # in whose place the tests have `Linear`
STILL = Adversary("linf", 1e-9, 1, 1e-9)


class Linear:
    """Images times one number each, as features; their sums by quarter as logits."""

    def init(self, key, x):
        return {"params": {"w": jnp.linspace(0.5, 1.5, 4)}}

    def apply(self, variables, x):
        features = x.reshape(len(x), 4) * variables["params"]["w"][None]
        return features[:, :3] * 2, {"flat": features}


@pytest.fixture(scope="module")
def batch():
    """Five images of three classes, and two references of each."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(0.1, 0.9, (5, 2, 2, 1)), jnp.float32)
    rows = jnp.asarray(rng.uniform(0.1, 0.9, (3, 2, 2, 2, 1)), jnp.float32)
    others = References(rows, jnp.repeat(jnp.arange(3)[:, None], 2, 1))
    return Batch(images, images, jnp.array([0, 1, 2, 1, 0]), jnp.ones(5, bool), others)


def share(features, rows, y, temperature):
    """-log of the mass of class y by the cosine: rows (class, count, dim)."""
    alike = jnp.einsum("bd,cnd->bcn", features, rows)
    alike = alike / jnp.linalg.norm(features, axis=1)[:, None, None]
    mass = jnp.exp(alike / jnp.linalg.norm(rows, axis=2)[None] / temperature).sum(2)
    return -jnp.log(mass[jnp.arange(len(y)), y] / mass.sum(1))


def test_where_nothing_may_move_it_is_the_sum_of_both_losses_through_references_too(batch):
    """Each reference then stands twice, which changes no share; gradients agree as well."""
    net = Linear()
    ask = defenses.ASK(NET, ("flat",), STILL, eps_ask=1e-9, weight=0.5, temperature=0.2)
    found = ask.objective(net)

    def expected(variables):
        logits, taps = net.apply(variables, batch.x)
        rows = net.apply(variables, batch.references.x.reshape(-1, 2, 2, 1))[1]["flat"].reshape(3, 2, 4)
        ask = share(taps["flat"], rows, batch.y, 0.2)
        return losses.cross_entropy(logits, batch.y) + 0.5 * ask

    variables = net.init(KEY, batch.x)
    np.testing.assert_allclose(found.loss(variables, KEY, batch), expected(variables), rtol=1e-5)
    gradients = (
        jax.grad(lambda v, f=f: f(v).sum())(variables)
        for f in (lambda v: found.loss(v, KEY, batch), expected)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), *gradients)


def test_trades_by_hand(batch):
    generator = defenses.TradesLoss(beta=3.0).forwarded(STILL)
    one, two = jnp.log(jnp.array([[0.5, 0.25, 0.25]])), jnp.log(jnp.array([[0.25, 0.5, 0.25]]))
    found = generator.loss(((one, {}), (two, {})), batch._replace(y=jnp.array([0])))
    np.testing.assert_allclose(found, [np.log(2) + 3 * (0.25 * np.log(2))], rtol=1e-6)
    net = Linear()
    defense = by_forwarded(net, generator)
    variables = net.init(KEY, batch.x)
    plain = losses.cross_entropy(net.apply(variables, batch.x)[0], batch.y)
    np.testing.assert_allclose(defense.loss(variables, KEY, batch), plain, rtol=1e-6)


def test_images_of_every_generator_raise_its_loss_inside_its_ball(batch):
    net = Linear()
    variables = net.init(KEY, batch.x)
    adversary = Adversary("linf", 0.1, 5, 0.03)
    pgd = defenses.AdversarialCrossEntropy().forwarded(adversary)
    trades = defenses.TradesLoss(beta=1.0).forwarded(adversary)
    ask = defenses.ASK(NET, ("flat",), adversary, temperature=0.2).forwarded()  # within 0.2

    def forward(x):
        return net.apply(variables, x)

    def raised(x, loss):
        assert (loss(x) >= loss(batch.x)).all()
        assert (loss(x) > loss(batch.x)).any()

    def moved(x):
        shares, others = (jax.nn.log_softmax(forward(a)[0]) for a in (batch.x, x))
        return (jnp.exp(shares) * (shares - others)).sum(1)

    [(x, _)] = pgd.inputs(forward, KEY, batch)
    raised(x, lambda x: losses.cross_entropy(forward(x)[0], batch.y))
    _, (other, _) = trades.inputs(forward, KEY, batch)
    raised(other, moved)
    _, (own, there), (rows, all_there) = ask.inputs(forward, KEY, batch)
    clean, perturbed = rows.reshape(2, 6, 2, 2, 1)
    np.testing.assert_array_equal(clean, batch.references.x.reshape(6, 2, 2, 1))
    held = forward(rows)[1]["flat"].reshape(2, 3, 2, 4)
    held = jnp.concatenate([held[0], held[1]], 1)
    raised(own, lambda x: share(forward(x)[1]["flat"], held, batch.y, 0.2))
    classes = jnp.repeat(jnp.arange(3), 2)
    worse, better = (losses.cross_entropy(forward(a)[0], classes) for a in (perturbed, clean))
    assert (worse > better).all()
    for images, start, eps in ((x, batch.x, 0.1), (other, batch.x, 0.1), (own, batch.x, 0.2)):
        assert (balls.linf(0.0).norm(images - start) <= eps + 1e-6).all()
        assert images.min() >= 0
        assert images.max() <= 1
    assert there.shape == (5,)
    assert all_there.all()
    assert len(all_there) == 12


def test_statistics_move_once_and_not_with_each_step_of_the_adversary(batch):
    """A tenth of the way from 1, by all images of a step together."""
    x = jnp.pad(batch.x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    rows = jnp.pad(batch.references.x, ((0, 0), (0, 0), (3, 3), (3, 3), (0, 0)))
    wide = batch._replace(x=x, clean=x, references=batch.references._replace(x=rows))
    adversary, net = Adversary("linf", 0.1, 3, 0.05), nets.VGG(((1, 3),), (4,))
    for defense in (defenses.Trades(net, adversary), defenses.ASK(net, ("conv1",), adversary)):
        objective = defense.objective(defense.module(3))
        assert objective.train_loss is not None
        variables = objective.init(KEY, x)
        _, moved = jax.jit(objective.train_loss)(variables, KEY, wide)
        var = moved[STATISTICS]["conv1_1_norm"]["var"]
        assert ((var >= 0.9) & (var != 1)).all()


def test_rows_are_drawn_of_every_class():
    labels = np.array([2, 0, 1, 1, 2, 2, 0, 1], np.int32)
    split = data.Split(np.zeros((8, 1, 1, 1), np.float32), labels)
    draw = jax.vmap(of_each_class(split, 4).rows, (0, None))
    rows = np.asarray(draw(jax.random.split(KEY, 40), jnp.arange(2)))
    assert rows.shape == (40, 3, 4)
    np.testing.assert_array_equal(
        labels[rows], np.broadcast_to(np.arange(3)[None, :, None], rows.shape)
    )
    assert set(rows.ravel()) == set(range(8))
