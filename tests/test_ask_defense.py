"""AT, TRADES and ASK-Def: losses by hand, images in their balls, references of the right class."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from knn_jax import balls, config, data, defenses, losses, nets, references, training
from knn_jax.defenses import STATISTICS, Batch, Others, generators

pytestmark = pytest.mark.usefixtures("trains", "quick")
KEY = jax.random.key(0)
ASK = config.Defense(
    name="ask",
    layers=("conv1", "conv2"),
    adversary="linf",
    eps=0.1,
    steps=2,
    step_size=0.05,
    references=3,
)


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
    others = Others(rows, jnp.repeat(jnp.arange(3)[:, None], 2, 1))
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
    generator = generators.pgd(0.0, steps=1, step_size=0.1)
    own = defenses.ask(
        generator, ("flat",), eps=0.0, steps=1, step_size=0.1, weight=0.5, temperature=0.2
    )
    found = generators.trained(net, own)

    def expected(variables):
        logits, taps = net.apply(variables, batch.x)
        rows = net.apply(variables, batch.others.x.reshape(-1, 2, 2, 1))[1]["flat"].reshape(3, 2, 4)
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
    generator = generators.trades(0.0, steps=1, step_size=0.1, beta=3.0)
    one, two = jnp.log(jnp.array([[0.5, 0.25, 0.25]])), jnp.log(jnp.array([[0.25, 0.5, 0.25]]))
    found = generator.loss(((one, {}), (two, {})), batch._replace(y=jnp.array([0])))
    np.testing.assert_allclose(found, [np.log(2) + 3 * (0.25 * np.log(2))], rtol=1e-6)
    net = Linear()
    defense = generators.trained(net, generator)
    variables = net.init(KEY, batch.x)
    plain = losses.cross_entropy(net.apply(variables, batch.x)[0], batch.y)
    np.testing.assert_allclose(defense.loss(variables, KEY, batch), plain, rtol=1e-6)


def test_images_of_every_generator_raise_its_loss_inside_its_ball(batch):
    net = Linear()
    variables = net.init(KEY, batch.x)
    numbers = {"steps": 5, "step_size": 0.03}
    pgd, trades = generators.pgd(0.1, **numbers), generators.trades(0.1, beta=1.0, **numbers)
    ask = defenses.ask(pgd, ("flat",), eps=0.2, temperature=0.2, **numbers)

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
    np.testing.assert_array_equal(clean, batch.others.x.reshape(6, 2, 2, 1))
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


@pytest.mark.parametrize("name", ["trades", "ask"])
def test_a_normalised_network_learns_and_moves_its_statistics_once(name):
    split = data.load(config.Data()).train
    x, y = jnp.asarray(split.floats(0, 20)), jnp.asarray(split.labels[:20])
    rows = [np.flatnonzero(split.labels == c)[:3] for c in range(10)]
    rows = jnp.asarray(split.floats(0, len(split.labels))[np.stack(rows)])
    others = Others(rows, jnp.repeat(jnp.arange(10)[:, None], 3, 1))
    batch = Batch(x, x, y, jnp.arange(20) < 18, others)
    knobs = config.Defense(**{**vars(ASK), "name": name})
    defense = defenses.build(knobs, nets.build(config.Net(name="digits_vgg"), 10))
    variables = defense.init(KEY, x)
    optimiser = optax.sgd(0.05)

    def loss(parameters, statistics):
        value, carried = defense.learn({"params": parameters, **statistics}, KEY, batch)
        return jnp.mean(value[:18]), carried

    def step(carry, _):
        parameters, statistics = carry
        (value, moved), gradient = jax.value_and_grad(loss, has_aux=True)(parameters, statistics)
        updates, _ = optimiser.update(gradient, optimiser.init(parameters))
        return (optax.apply_updates(parameters, updates), moved), (value, moved)

    start = variables["params"], {STATISTICS: variables[STATISTICS]}
    _, (values, moved) = jax.jit(lambda: lax.scan(step, start, length=8))()
    assert np.isfinite(values).all()
    assert values[-1] < values[0]
    for mean in jax.tree.leaves(jax.tree.map(lambda a: a[0], moved)):
        assert np.isfinite(mean).all()
    # A tenth of the way from 1 once, not once for each step of the adversary.
    first = moved[STATISTICS]["conv1_1_norm"]["var"][0]
    assert (first >= 0.9).all()


def test_rows_are_drawn_of_every_class():
    labels = np.array([2, 0, 1, 1, 2, 2, 0, 1], np.int32)
    split = data.Split(np.zeros((8, 1, 1, 1), np.float32), labels)
    draw = jax.vmap(references.drawn(split, 4).rows, (0, None))
    rows = np.asarray(draw(jax.random.split(KEY, 40), jnp.arange(2)))
    assert rows.shape == (40, 3, 4)
    np.testing.assert_array_equal(
        labels[rows], np.broadcast_to(np.arange(3)[None, :, None], rows.shape)
    )
    assert set(rows.ravel()) == set(range(8))


def test_training_draws_references_and_resumes(tmp_path):
    """Two epochs at once, and one after the other: the same bits."""
    dataset = data.load(config.Data(train_images=110))
    knobs = config.Defense(**{**vars(ASK), "layers": ("relu1",), "steps": 1})
    defense = defenses.build(knobs, nets.trunk.Trunk(((2, 3, 2, 1),), 10))

    def run(folder, epochs):
        optim = config.Optim(epochs=epochs, batch_size=60, optimizer="sgd", peak_lr=0.01)
        drawn = references.drawn(dataset.train, 3)
        return training.train(defense, dataset, optim, tmp_path / folder, references=drawn)

    whole = run("whole", 2)
    run("parts", 1)
    jax.tree.map(np.testing.assert_array_equal, whole, run("parts", 2))


@pytest.mark.parametrize(
    ("knobs", "net", "message"),
    [
        ({"adversary": "none"}, "digits", "defense.name='ask' perturbs images itself"),
        ({"layers": ()}, "digits", "defense.layers is empty"),
        ({"references": 0}, "digits", "references=0: .* references at least 1"),
        ({"eps_ask": -1.0}, "digits", "eps_ask=-1.0"),
        ({"temperature": -1.0}, "digits", "defense.temperature=-1.0: it must not be below 0"),
        ({}, "digits_autoencoder", "trains no net.name='digits_autoencoder'"),
        ({"name": "vae"}, "digits_vgg", "use 'basic', 'rotation', 'soft_neighbors', 'trades', 'ask'"),
    ],
)
def test_what_cannot_be_trained_is_refused(knobs, net, message):
    with pytest.raises(ValueError, match=message):
        defenses.check(config.Defense(**{**vars(ASK), **knobs}), config.Net(name=net))
