"""Prototypes: where they lie, what draws an image to them, 1-NN on them, and both defenses' systems."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from some_digits import digits as load_digits
from victims import flat

from knn_jax import attacks, certificates, classifiers, cli, data, defenses, losses, neighbors, nets
from knn_jax.nets import STATISTICS
from knn_jax.recipe import Evaluate, Recipe, fit
from knn_jax.training import Batch, Optim

pytestmark = pytest.mark.usefixtures("trains", "quick")
KEY = jax.random.key(0)

# Where they lie.


@pytest.mark.parametrize(
    ("distance", "moved"),
    [("l2", [[-0.06, -0.08], [0.06, 0.08]]), ("linf", [[0.0, -0.1], [0.0, 0.1]])],
)
def test_a_step_moves_two_centres_apart_by_twice_the_rate(monkeypatch, distance, moved):
    """Each pair stands twice in the sum of eq. 5."""
    start = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    monkeypatch.setattr(jax.random, "normal", lambda *_: start)
    found = nets.repulsive(KEY, 2, 2, distance, steps=1, rate=0.05)
    np.testing.assert_allclose(found - start, moved, atol=1e-6)


def test_cosine_keeps_to_the_sphere_and_parts_two_centres_as_far_as_can_be():
    found = nets.repulsive(KEY, 2, 5, "cosine", steps=500, rate=0.1)
    np.testing.assert_allclose(jnp.sum(jnp.square(found), 1), 1, rtol=1e-5)
    np.testing.assert_allclose(nets.separation(found, "cosine"), 1, rtol=1e-4)


@pytest.mark.parametrize(("classes", "dim"), [(2, 1), (4, 3), (10, 100)])
def test_a_simplex_is_equally_far_apart_and_nothing_further(classes, dim):
    corners = nets.simplex(classes, dim)
    assert corners.shape == (classes, dim)
    product = np.asarray(corners @ corners.T, np.float64)
    np.testing.assert_allclose(np.diag(product), 1, rtol=1e-5)
    others = product[~np.eye(classes, dtype=bool)]
    np.testing.assert_allclose(others, -1 / (classes - 1), atol=1e-5)
    for distance in ("l2", "cosine"):
        np.testing.assert_allclose(nets.separation(corners, distance), 1, rtol=1e-5)
        drawn = nets.repulsive(KEY, classes, dim, distance)
        assert 0 <= nets.separation(drawn, distance) <= 1 + 1e-5


def test_no_more_than_a_simplex_has_are_equally_far_apart():
    with pytest.raises(ValueError, match="5 points in 3 dimensions: at most 4"):
        nets.simplex(5, 3)


def test_separation_is_of_any_place_and_size():
    drawn = nets.repulsive(KEY, 4, 6)
    expected = nets.separation(drawn)
    np.testing.assert_allclose(nets.separation(3 * drawn + 1), expected, rtol=1e-5)
    cube = jnp.array([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 2.0]])
    np.testing.assert_allclose(nets.separation(cube, "linf"), 1)


# What draws an image to them.


@pytest.mark.parametrize(
    ("distance", "expected"), [("l2", (1 - 5.0) ** 2), ("linf", (1 - 4.0) ** 2), ("cosine", 0.2**2)]
)
def test_the_loss_by_hand(distance, expected):
    point, prototype = jnp.array([[0.0, 5.0]]), jnp.array([[3.0, 1.0], [3.0, 9.0], [3.0, 4.0]])
    row = {"l2": 0, "linf": 1, "cosine": 2}[distance]
    found = losses.to_prototype(point, prototype[row : row + 1], neighbors.named(distance))
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


@pytest.mark.parametrize("distance", ["l2", "linf", "cosine"])
def test_a_point_on_its_prototype_has_no_slope(distance):
    point = jnp.array([[3.0, 4.0]])
    slope = jax.grad(lambda z: losses.to_prototype(z, point, neighbors.named(distance)).sum())(point)
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
    split = load_digits().train
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
    value = defenses.Repulsive(nets.digits_convnet(), metric=neighbors.named(distance))
    net = value.module(10)
    variables = net.init(KEY, x[:2])
    rows = net.rows(variables)
    assert rows.shape == (10, 1, 100)
    scores, taps = net.apply(variables, x[:5])
    apart = neighbors.named(distance).distance(taps["points"][:, None], rows[None, :, 0])
    np.testing.assert_array_equal(scores.argmax(1), apart.argmin(1))
    expected = -jnp.square(apart) if distance == "l2" else -apart
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)
    assert "params" in variables
    assert "prototypes" not in variables["params"]


def test_a_step_moves_the_network_and_not_its_fixed_prototypes(digits):
    _, x, y = digits
    value = defenses.Repulsive(nets.digits_convnet(), dim=20)
    net = value.module(10)
    defense, batch = value.objective(net), Batch(x[:8], x[:8], y[:8], jnp.ones(8, bool))
    variables = net.init(KEY, x[:2])
    found, statistics = defense.train_loss(variables, KEY, batch)
    own = net.rows(variables)[y[:8], 0]
    apart = neighbors.Euclidean().distance(net.apply(variables, x[:8])[1]["points"], own)
    np.testing.assert_allclose(found, jnp.square(1 - apart), rtol=1e-4)
    np.testing.assert_array_equal(defense.loss(variables, KEY, batch), found)
    np.testing.assert_array_equal(
        statistics[STATISTICS]["prototypes"], variables[STATISTICS]["prototypes"]
    )


def test_trained_prototypes_begin_as_the_first_images_of_each_class():
    dataset, value = load_digits(400), defenses.Prototypes(nets.Pixels(), count=3)
    net = value.module(10)
    defense = value.objective(net)
    rows = net.rows(net.init(KEY, defense.examples(dataset.train)))
    for label in range(10):
        first = np.flatnonzero(dataset.train.labels == label)[:3]
        expected = dataset.train.floats(0, len(dataset.train.labels))[first].reshape(3, -1)
        np.testing.assert_allclose(rows[label], expected, rtol=1e-6)


def test_a_layer_of_lipschitz_one_carries_prototypes(digits):
    _, x, _ = digits
    body = nets.digits_lipschitz_autoencoder()
    net = defenses.Prototypes(body, "relu1", 2).module(10)
    variables = net.init(KEY, x[:20])
    body = {"params": variables["params"]["body"]}
    assert net.lipschitz(variables, "points") == net.body.lipschitz(body, "relu1")
    assert net.lipschitz(variables, "points") < 1.001
    _, taps = net.apply(variables, x[:3])
    np.testing.assert_array_equal(taps["points"], taps["relu1"])


def test_by_cosine_rows_have_length_1():
    x = jax.random.uniform(KEY, (6, 2, 1, 1))
    samples = classifiers.knn(
        lambda z: z.reshape(len(z), -1), x, jnp.arange(6) % 2, k=1, metric="cosine"
    )
    with pytest.raises(ValueError, match="prototypes of lengths 1 to 5: by cosine each must be 1"):
        classifiers.prototypes(samples, jnp.array([[1.0, 0.0], [0.0, 5.0]]))


# The systems.


def test_a_recipe_reports_the_prototypes_and_each_source(tmp_path):
    recipe = Recipe(
        name="repulsive",
        data=data.Digits(train_images=200),
        defense=defenses.Repulsive(nets.digits_convnet(), metric=neighbors.Cosine()),
        optim=Optim(epochs=12),
        classifier=fit.Prototypes(),
        attacks={
            "minimum_norm": attacks.MinimumNorm(steps=4, starts=2),
            "pgd_loss": attacks.LossPGD(steps=2),
        },
        evaluate=Evaluate(images=4, norms=("linf",), sources=("model", "substitute"), chunk=4),
    )
    cli.attack(recipe, str(tmp_path))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["layer"] == "prototypes"
    assert report["bank_rows"] == 10
    assert 0 < report["separation"] <= 1
    labels = [attack["name"] for attack in report["attacks"]]
    assert labels == ["minimum_norm", "pgd_loss", "pgd_loss on substitute", "least of all"]
    for picture in ("confusion.png", "lookalikes.png", "curve.png", "examples.png"):
        assert (tmp_path / picture).stat().st_size > 3000
    assert {"checkpoints", "substitute"} <= {file.name for file in tmp_path.iterdir()}


def test_trained_prototypes_are_certified_above_the_images_they_began_as(tmp_path):
    dataset = load_digits(400)
    x, y = jnp.asarray(dataset.test.floats(0, 60)), jnp.asarray(dataset.test.labels[:60])
    defense = defenses.Prototypes(nets.Pixels(), count=3)
    radii = []
    for epochs in (0, 1):
        optim = Optim(epochs=epochs, batch_size=64)
        system = fit.system(defense, fit.Prototypes(), optim, dataset, tmp_path / str(epochs))
        assert system.lipschitz == 1
        radii.append(certificates.voronoi(system.model, x, y, lipschitz=1.0).mean())
    begun, trained = radii
    assert trained > begun > 0
