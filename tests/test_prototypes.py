"""Prototypes: where they lie, what draws an image to them, 1-NN on them, and both defenses' recipes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from victims import flat

from knn_jax import (
    attacks,
    certificates,
    classifiers,
    config,
    data,
    defenses,
    jobs,
    losses,
    nets,
    prototypes,
    recipes,
)
from knn_jax.defenses import STATISTICS, Batch

pytestmark = pytest.mark.usefixtures("trains", "quick")
KEY = jax.random.key(0)
REPULSIVE = config.Config(
    name="repulsive",
    data=config.Data(train_images=200),
    defense=config.Defense(name="repulsive", distance="cosine"),
    optim=config.Optim(epochs=12),
    classifier=config.Classifier(name="prototypes", metric="cosine", k=1),
    attack=config.Attack(
        images=4,
        names=("minimum_norm", "pgd_loss"),
        sources=("model", "substitute"),
        norms=("linf",),
        steps=4,
        starts=2,
        chunk=4,
    ),
    ball=config.Ball(steps=2),
)
TRAINED = config.Config(
    name="trained",
    data=config.Data(train_images=400),
    net=config.Net(name="pixels"),
    defense=config.Defense(name="prototypes", count=3),
    optim=config.Optim(epochs=1, batch_size=64),
    classifier=config.Classifier(name="prototypes", k=1),
    attack=config.Attack(images=6, steps=4, starts=2, chunk=6),
    certify=config.Certify(exact=True, chunk=6),
)


def altered(recipe, **sections):
    changes = {s: dataclasses.replace(getattr(recipe, s), **knobs) for s, knobs in sections.items()}
    return dataclasses.replace(recipe, **changes)


# Where they lie.


@pytest.mark.parametrize(
    ("distance", "moved"),
    [("l2", [[-0.06, -0.08], [0.06, 0.08]]), ("linf", [[0.0, -0.1], [0.0, 0.1]])],
)
def test_a_step_moves_two_centres_apart_by_twice_the_rate(monkeypatch, distance, moved):
    """Each pair stands twice in the sum of eq. 5."""
    start = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    monkeypatch.setattr(jax.random, "normal", lambda *_: start)
    found = prototypes.repulsive(KEY, 2, 2, distance, steps=1, rate=0.05)
    np.testing.assert_allclose(found - start, moved, atol=1e-6)


def test_cosine_keeps_to_the_sphere_and_parts_two_centres_as_far_as_can_be():
    found = prototypes.repulsive(KEY, 2, 5, "cosine", steps=500, rate=0.1)
    np.testing.assert_allclose(jnp.sum(jnp.square(found), 1), 1, rtol=1e-5)
    np.testing.assert_allclose(prototypes.separation(found, "cosine"), 1, rtol=1e-4)


@pytest.mark.parametrize(("classes", "dim"), [(2, 1), (4, 3), (10, 100)])
def test_a_simplex_is_equally_far_apart_and_nothing_further(classes, dim):
    corners = prototypes.simplex(classes, dim)
    assert corners.shape == (classes, dim)
    product = np.asarray(corners @ corners.T, np.float64)
    np.testing.assert_allclose(np.diag(product), 1, rtol=1e-5)
    others = product[~np.eye(classes, dtype=bool)]
    np.testing.assert_allclose(others, -1 / (classes - 1), atol=1e-5)
    for distance in ("l2", "cosine"):
        np.testing.assert_allclose(prototypes.separation(corners, distance), 1, rtol=1e-5)
        drawn = prototypes.repulsive(KEY, classes, dim, distance)
        assert 0 <= prototypes.separation(drawn, distance) <= 1 + 1e-5


def test_no_more_than_a_simplex_has_are_equally_far_apart():
    with pytest.raises(ValueError, match="5 points in 3 dimensions: at most 4"):
        prototypes.simplex(5, 3)


def test_separation_is_of_any_place_and_size():
    drawn = prototypes.repulsive(KEY, 4, 6)
    expected = prototypes.separation(drawn)
    np.testing.assert_allclose(prototypes.separation(3 * drawn + 1), expected, rtol=1e-5)
    cube = jnp.array([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 2.0]])
    np.testing.assert_allclose(prototypes.separation(cube, "linf"), 1)


# What draws an image to them.


@pytest.mark.parametrize(
    ("distance", "expected"), [("l2", (1 - 5.0) ** 2), ("linf", (1 - 4.0) ** 2), ("cosine", 0.2**2)]
)
def test_the_loss_by_hand(distance, expected):
    point, prototype = jnp.array([[0.0, 5.0]]), jnp.array([[3.0, 1.0], [3.0, 9.0], [3.0, 4.0]])
    row = {"l2": 0, "linf": 1, "cosine": 2}[distance]
    found = losses.to_prototype(point, prototype[row : row + 1], distance)
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


@pytest.mark.parametrize("distance", ["l2", "linf", "cosine"])
def test_a_point_on_its_prototype_has_no_slope(distance):
    point = jnp.array([[3.0, 4.0]])
    slope = jax.grad(lambda z: losses.to_prototype(z, point, distance).sum())(point)
    np.testing.assert_allclose(slope, 0, atol=1e-6)


@pytest.fixture(scope="module")
def cloud(quick):
    """Points, prototypes (3 classes, 4 of each) and labels."""
    points, rows = jax.random.normal(KEY, (7, 5)), jax.random.normal(jax.random.key(1), (3, 4, 5))
    return points, rows, jnp.arange(7) % 3


def test_the_certified_radius_is_that_of_all_bisectors(cloud):
    points, rows, y = cloud
    found = losses.prototype_radius(points, rows, y, own=4, other=8)
    for x, label, radius in zip(*map(np.float64, (points, y, found)), strict=True):
        p = np.float64(rows)
        squared = np.sum((p - x) ** 2, -1)
        own = int(label)
        sides = [
            max(
                (squared[c, j] - squared[own, i]) / (2 * np.linalg.norm(p[own, i] - p[c, j]))
                for i in range(4)
            )
            for c in range(3)
            if c != own
            for j in range(4)
        ]
        np.testing.assert_allclose(radius, min(sides), rtol=1e-4)


def test_its_gradient_is_that_of_finite_differences(cloud):
    points, rows, y = cloud

    def total(rows):
        return losses.prototype_radius(points, rows, y, own=4, other=8).sum()

    slope, change = jax.grad(total)(rows), jax.random.normal(jax.random.key(2), rows.shape)
    step = 1e-3
    expected = (total(rows + step * change) - total(rows - step * change)) / (2 * step)
    np.testing.assert_allclose(jnp.sum(slope * change), expected, rtol=1e-2)


# 1-NN on them.


@pytest.fixture(scope="module")
def digits(quick):
    split = data.load(config.Data()).train
    x, y = jnp.asarray(split.floats(0, 300)), jnp.asarray(split.labels[:300])
    return classifiers.knn(None, x, y, k=1), x, y


@pytest.fixture(scope="module")
def means(digits):
    """The mean of each digit, and another prototype beside it."""
    _, x, y = digits
    mean = jnp.stack([flat(x)[y == label].mean(0) for label in range(10)])
    return jnp.stack([mean, mean + 0.01], 1)


def test_the_nearest_prototype_decides(digits, means):
    samples, x, _ = digits
    model = classifiers.prototypes(samples, means)
    apart = np.linalg.norm(np.asarray(flat(x))[:, None] - np.asarray(means).reshape(1, 20, -1), axis=-1)
    np.testing.assert_array_equal(model.predict(x), apart.argmin(1) // 2)
    assert model.banks[0].shape == (20, 64)
    alone = classifiers.prototypes(samples, means[:, 0])
    np.testing.assert_array_equal(alone.predict(x), apart[:, ::2].argmin(1))


def test_attacks_and_certificates_take_them_as_any_bank(digits, means):
    samples, x, y = digits
    model, x, y = classifiers.prototypes(samples, means), x[:20], y[:20]
    found = attacks.minimum_norm(KEY, model, x, y, steps=10, starts=3)
    assert found.success.all()
    assert not model.right(found.image, y).any()
    margin, voronoi = certificates.margin(model, x, y), certificates.voronoi(model, x, y)
    exact = certificates.exact(model, x, y)
    assert (margin <= voronoi + 1e-6).all()
    assert (voronoi <= exact.upper).all()
    assert (exact.lower <= exact.upper).all()
    assert (exact.lower <= found.norm).all()
    own = losses.prototype_radius(flat(x), means, y, own=2, other=18)
    assert (voronoi <= jnp.maximum(own, 0)).all()  # less what rounding may do
    np.testing.assert_allclose(voronoi, jnp.maximum(own, 0), atol=1e-3)


def test_starts_are_the_nearest_samples_that_fool(digits, means):
    """Also where the nearest samples of other classes are taken for class y."""
    samples, x, _ = digits
    far = means.at[3].add(100.0)  # a 3 is never taken for one
    model = classifiers.prototypes(samples, far)
    given = model.predict(x)
    three = jnp.full(5, 3, jnp.int32)
    assert (given != 3).all()
    for y in (given[:5], three):
        starts = model.rivals(x[:5], y, 4)
        for images, label, own in zip(starts, y, x[:5], strict=True):
            assert (model.predict(images) != label).all()
            apart = np.linalg.norm(np.asarray(flat(images - own[None])), axis=1)
            assert (np.diff(apart) >= 0).all()


def test_the_nearest_sample_is_of_that_class_and_right(digits, means):
    samples, x, y = digits
    model = classifiers.prototypes(samples, means)
    wanted = (y[:8] + 1) % 10
    near, there = model.nearest_sample(x[:8], wanted)
    right = np.asarray(model.predict(x) == y)
    for image, label, found in zip(x[:8], wanted, near, strict=True):
        rows = np.flatnonzero(right & np.asarray(y == label))
        apart = np.linalg.norm(np.asarray(flat(x[rows] - image[None])), axis=1)
        np.testing.assert_array_equal(found, x[rows[apart.argmin()]])
    assert there.all()


def test_a_class_without_a_right_sample_has_none(digits, means):
    samples, x, _ = digits
    far = means.at[3].add(100.0)  # no digit is nearest to it
    _, there = classifiers.prototypes(samples, far).nearest_sample(x[:2], jnp.array([3, 4]))
    assert there.tolist() == [False, True]


def test_prototypes_that_do_not_fit(digits, means):
    samples, x, y = digits
    with pytest.raises(ValueError, match="9 classes in 64 dimensions, and samples of 10 in 64"):
        classifiers.prototypes(samples, means[:9])
    with pytest.raises(ValueError, match="9 dimensions"):
        classifiers.prototypes(samples, means[:, :, :9])
    with pytest.raises(ValueError, match=r"shape \(10, 2, 64, 1\): \(class, dim\)"):
        classifiers.prototypes(samples, means[..., None])
    two = classifiers.knn([flat, flat], x, y, k=1)
    with pytest.raises(ValueError, match="one tap, and the samples have 2"):
        classifiers.prototypes(two, means)


# The networks.


@pytest.mark.parametrize("distance", ["l2", "linf", "cosine"])
def test_scores_are_of_the_nearest_prototype(distance, digits):
    _, x, _ = digits
    net = nets.repulsive(config.Net(name="digits"), 10, 0, distance)
    variables = net.init(KEY, x[:2])
    rows = net.rows(variables)
    assert rows.shape == (10, 1, 100)
    scores, taps = net.apply(variables, x[:5])
    apart = losses.distance(taps["points"][:, None], rows[None, :, 0], distance)
    np.testing.assert_array_equal(scores.argmax(1), apart.argmin(1))
    expected = -jnp.square(apart) if distance == "l2" else -apart
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)
    assert "params" in variables
    assert "prototypes" not in variables["params"]


def test_a_step_moves_the_network_and_not_its_fixed_prototypes(digits):
    _, x, y = digits
    net = nets.repulsive(config.Net(name="digits"), 10, 20, "l2")
    defense, batch = defenses.repulsive(net), Batch(x[:8], x[:8], y[:8], jnp.ones(8, bool))
    variables = net.init(KEY, x[:2])
    found, statistics = defense.learn(variables, KEY, batch)
    own = net.rows(variables)[y[:8], 0]
    apart = losses.distance(net.apply(variables, x[:8])[1]["points"], own, "l2")
    np.testing.assert_allclose(found, jnp.square(1 - apart), rtol=1e-4)
    np.testing.assert_array_equal(defense.loss(variables, KEY, batch), found)
    np.testing.assert_array_equal(
        statistics[STATISTICS]["prototypes"], variables[STATISTICS]["prototypes"]
    )


def test_trained_prototypes_begin_as_the_first_images_of_each_class():
    dataset = data.load(TRAINED.data)
    net = nets.prototyped(TRAINED.net, 10, 3, ())
    defense = defenses.build(TRAINED.defense, net)
    rows = net.rows(net.init(KEY, defense.examples(dataset.train)))
    for label in range(10):
        first = np.flatnonzero(dataset.train.labels == label)[:3]
        expected = dataset.train.floats(0, len(dataset.train.labels))[first].reshape(3, -1)
        np.testing.assert_allclose(rows[label], expected, rtol=1e-6)


def test_a_layer_of_lipschitz_one_carries_prototypes(digits):
    _, x, _ = digits
    net = nets.prototyped(config.Net(name="digits_lipschitz"), 10, 2, ("relu1",))
    variables = net.init(KEY, x[:20])
    body = {"params": variables["params"]["body"]}
    assert net.lipschitz(variables, "points") == net.body.lipschitz(body, "relu1")
    assert net.lipschitz(variables, "points") < 1.001
    _, taps = net.apply(variables, x[:3])
    np.testing.assert_array_equal(taps["points"], taps["relu1"])


# The recipes.


@pytest.fixture(scope="module")
def attacked(trains, quick, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repulsive")
    jobs.attack(REPULSIVE, str(folder))
    return folder


def test_its_recipe_reports_the_prototypes_and_each_source(attacked):
    report = json.loads((attacked / "report.json").read_text())
    assert report["layer"] == "prototypes"
    assert report["bank_rows"] == 10
    assert 0 < report["separation"] <= 1
    labels = [attack["name"] for attack in report["attacks"]]
    assert labels == ["minimum_norm", "pgd_loss", "pgd_loss on substitute", "least of all"]
    for picture in ("confusion.png", "lookalikes.png", "curve.png", "examples.png"):
        assert (attacked / picture).stat().st_size > 3000


def test_the_substitute_is_a_network_of_its_own(attacked):
    assert {"checkpoints", "substitute"} <= {file.name for file in attacked.iterdir()}
    dataset = data.load(REPULSIVE.data)
    defended = recipes.defend(REPULSIVE, dataset, attacked)
    source = defended.sources["substitute"]
    assert isinstance(source, classifiers.Network)
    assert source.classes == 10
    x = jnp.asarray(dataset.test.floats(0, 2))
    assert source.votes(x).shape == (2, 10)


def test_trained_prototypes_are_certified_above_the_images_they_began_as(tmp_path):
    jobs.attack(TRAINED, str(tmp_path / "trained"))
    jobs.certify(altered(TRAINED, optim={"epochs": 0}), str(tmp_path / "begun"))
    trained, begun = (
        json.loads((tmp_path / name / "report.json").read_text()) for name in ("trained", "begun")
    )
    assert trained["violations"] == 0
    radii = {
        name: next(c["mean_radius_all"] for c in report["certificates"] if c["name"] == "voronoi")
        for name, report in (("trained", trained), ("begun", begun))
    }
    assert radii["trained"] > radii["begun"]


def test_a_network_trained_further_finds_no_results_of_before(trains, tmp_path):
    """Though the rows that vote are the same."""
    plain = {"names": ("minimum_norm",), "sources": ("model",)}
    recipes_ = [altered(REPULSIVE, optim={"epochs": n}, attack=plain) for n in (0, 1)]
    dataset = data.load(REPULSIVE.data)
    first, second = (recipes.defend(recipe, dataset, tmp_path) for recipe in recipes_)
    np.testing.assert_array_equal(first.model.banks[0], second.model.banks[0])
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (altered(REPULSIVE, classifier={"metric": "l2"}), "classifier.metric='l2' for prototypes of"),
        (altered(REPULSIVE, defense={"name": "basic"}), "for defense.name='repulsive'"),
        (altered(REPULSIVE, defense={"dim": -1}), "defense.dim=-1"),
        (altered(REPULSIVE, net={"name": "pixels"}), "'repulsive' trains no net.name='pixels'"),
        (altered(TRAINED, defense={"count": 0}), "count=0"),
        (altered(TRAINED, defense={"radius": 0.0}), "radius=0.0"),
        (
            altered(TRAINED, defense={"distance": "cosine"}, classifier={"metric": "cosine"}),
            "defense.distance='cosine': prototypes are trained for their radius in l2",
        ),
        (altered(TRAINED, defense={"layers": ("a", "b")}), "prototypes lie in one"),
        (altered(TRAINED, net={"name": "digits_lipschitz"}), "defense.layers is empty"),
        (altered(TRAINED, attack={"names": ("pgd_loss",)}), "pgd_loss is for defense.name in 'basic'"),
        (altered(TRAINED, attack={"sources": ("substitute",)}), "'pixels' is not trained"),
        (altered(REPULSIVE, ball={"layers": ("conv99",)}), "conv99"),
        (altered(REPULSIVE, attack={"names": ("dknn",)}), "dknn is for classifier.name='knn'"),
        (altered(REPULSIVE, attack={"names": ("adv_knn",)}), "adv_knn is for classifier.name='knn'"),
        (altered(REPULSIVE, analyze={"images": 5}), "analyze is for classifier.name='knn'"),
        (
            altered(
                TRAINED,
                net={"name": "digits_lipschitz"},
                defense={"layers": ("relu1",)},
                attack={"sources": ("substitute",)},
            ),
            "'basic' trains no net.name='digits_lipschitz'",
        ),
        (
            altered(REPULSIVE, defense={"name": "vae"}, net={"name": "digits_vae"}),
            "classifier.name='prototypes'",
        ),
        (
            altered(
                REPULSIVE,
                defense={"name": "vae"},
                net={"name": "digits_vae"},
                optim={"stopping_eps": 0.1},
            ),
            "stopping_eps=0.1: this defense has no output that classifies",
        ),
    ],
)
def test_recipes_that_cannot_be_served(recipe, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        jobs.attack(recipe, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_by_cosine_rows_have_length_1():
    x = jax.random.uniform(KEY, (6, 2, 1, 1))
    samples = classifiers.knn(
        lambda z: z.reshape(len(z), -1), x, jnp.arange(6) % 2, k=1, metric="cosine"
    )
    with pytest.raises(ValueError, match="prototypes of lengths 1 to 5: by cosine each must be 1"):
        classifiers.prototypes(samples, jnp.array([[1.0, 0.0], [0.0, 5.0]]))
