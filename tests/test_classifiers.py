"""The kNN classifier against scikit-learn, and what it refuses."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax.tree_util import Partial
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from knn_jax import attacks, classifiers, nets
from knn_jax.classifiers import embedding

pytestmark = pytest.mark.usefixtures("quick")
HOME = inspect.getmodule(classifiers.KNN)
ROWS, QUERIES = 300, 60
WEIGHTS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64, 12)), jnp.float32)


def flat(x):
    return x.reshape(x.shape[0], -1)


def project(weights, x):
    return flat(x) @ weights


@pytest.fixture(scope="module")
def digits(quick):
    """(images, labels) of the bank and of the queries."""
    bunch = load_digits()
    images = jnp.asarray(bunch.images[: ROWS + QUERIES, ..., None] / 16, jnp.float32)
    labels = jnp.asarray(bunch.target[: ROWS + QUERIES], jnp.int32)
    return (images[:ROWS], labels[:ROWS]), (images[ROWS:], labels[ROWS:])


@pytest.fixture(scope="module")
def model(digits):
    return classifiers.knn(Partial(project, WEIGHTS[0]), *digits[0], k=5)


@pytest.mark.parametrize("k", [1, 2, 5, 75])
def test_predicts_as_scikit_learn_does(digits, k):
    (images, labels), (x, _) = digits
    features = Partial(project, WEIGHTS[0])
    model = classifiers.knn(features, images, labels, k=k)
    oracle = KNeighborsClassifier(k, algorithm="brute").fit(np.asarray(model.banks[0]), labels)
    expected = oracle.predict(np.asarray(features(x)))
    np.testing.assert_array_equal(model.predict(x), expected)
    shares = oracle.predict_proba(np.asarray(features(x)))
    np.testing.assert_array_equal(model.votes(x), np.round(shares * k))


def test_the_lowest_class_wins_a_tied_vote():
    """Rows at 0.1, 0.5, 0.9 of classes 2, 1, 0 all vote once; the margin of a tie is zero."""
    images = jnp.array([0.1, 0.5, 0.9]).reshape(3, 1, 1, 1)
    model = classifiers.knn(flat, images, jnp.array([2, 1, 0]), k=3)
    np.testing.assert_array_equal(model.votes(images), np.ones((3, 3)))
    np.testing.assert_array_equal(model.predict(images), [0, 0, 0])
    np.testing.assert_array_equal(model.margin(images, jnp.array([0, 1, 2])), [0, 0, 0])


def test_the_margin_is_the_lead_in_votes(model, digits):
    x, y = digits[1]
    votes = np.asarray(model.votes(x))
    rest = np.where(np.arange(10) == np.asarray(y)[:, None], -1, votes).max(1)
    np.testing.assert_array_equal(model.margin(x, y), votes[np.arange(QUERIES), y] - rest)


def test_the_votes_of_several_taps_are_added(digits):
    taps = [Partial(project, weights) for weights in WEIGHTS]
    both = classifiers.knn(taps, *digits[0], k=5)
    alone = [classifiers.knn(tap, *digits[0], k=5) for tap in taps]
    x = digits[1][0]
    np.testing.assert_array_equal(both.votes(x), sum(m.votes(x) for m in alone))
    references = both.references(x)
    soft = both.soft_votes(x, references, 0.5)
    expected = sum(m.soft_votes(x, (r,), 0.5) for m, r in zip(alone, references, strict=True))
    np.testing.assert_allclose(soft, expected, rtol=1e-5, atol=1e-6)


def test_the_batches_do_not_change_the_bank_or_the_votes(monkeypatch, model, digits):
    monkeypatch.setattr(HOME, "BATCH", 64)
    jax.clear_caches()
    small = classifiers.knn(model.first, *digits[0], k=5)
    np.testing.assert_allclose(small.banks[0], model.banks[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(small.votes(digits[0][0]), model.votes(digits[0][0]))


def test_references_are_the_nearest_rows_of_every_class(model, digits):
    x, labels, bank = digits[1][0][:7], np.asarray(digits[0][1]), np.asarray(model.banks[0], np.float64)
    (references,) = model.references(x, 3)
    assert references.shape == (7, 10, 3, 12)
    for query, near in zip(np.asarray(project(WEIGHTS[0], x)), references, strict=True):
        distance = np.linalg.norm(bank - query, axis=1)
        for number, rows in enumerate(near):
            members = np.flatnonzero(labels == number)
            nearest = members[np.argsort(distance[members])[:3]]
            np.testing.assert_array_equal(rows, model.banks[0][nearest])


def test_guides_are_rows_of_the_class_and_of_the_nearest_other_on_average(digits):
    """Nearest by the first tap, with their features in both; k = 5."""
    (images, labels), (x, y) = digits
    model = classifiers.knn([Partial(project, w) for w in WEIGHTS], images, labels, k=5)
    guides = model.guides(x[:7], y[:7], 4)
    assert guides.there.all()
    labels = np.asarray(labels)
    for number in range(7):
        distance, other = (
            np.linalg.norm(np.asarray(project(w, x[number : number + 1]) - bank, np.float64), axis=1)
            for w, bank in zip(WEIGHTS, model.banks, strict=True)
        )
        near = [np.flatnonzero(labels == c) for c in range(10)]
        near = [rows[np.argsort(distance[rows])[:4]] for rows in near]
        mean = [
            np.inf if c == y[number] else np.mean(distance[rows] ** 2) for c, rows in enumerate(near)
        ]
        for tap, bank in zip(guides.features, model.banks, strict=True):
            np.testing.assert_array_equal(
                tap[number], bank[np.stack([near[y[number]], near[np.argmin(mean)]])]
            )
        kth = [np.sort(d)[4] for d in (distance, other)]
        np.testing.assert_allclose([reach[number] for reach in guides.reach], kth, rtol=1e-5)


def test_guides_that_a_class_lacks_are_marked_and_do_not_count():
    """The one row of class 1, at 0.3, is nearer on average than the two of class 2, at 0.2 and 0.5."""
    images = jnp.array([0.1, 0.0, 0.1, 0.4, 0.3, 0.6]).reshape(6, 1, 1, 1)
    model = classifiers.knn(flat, images, jnp.array([0, 0, 0, 1, 2, 2]), k=1)
    guides = model.guides(images[:1], jnp.array([0]), 3)
    np.testing.assert_array_equal(guides.there, [[[True, True, True], [True, False, False]]])
    np.testing.assert_array_equal(guides.features[0][0, 1, 0], images[3].ravel())


def broken(x):
    """Pixels, but NaN for an image that is white at its first."""
    return jnp.where(x[:, :1, 0, 0] == 1, jnp.nan, flat(x))


def answer(features, values, nearness):
    """The mean of the neighbours' values."""
    return (values * jnp.exp(nearness)[..., None]).mean(1) + 0 * features


@pytest.mark.parametrize("jit", [False, True])
def test_an_image_whose_features_are_nan_has_no_neighbours(jit):
    """Neither the last row, of class 2, nor any other speaks for it."""
    images = jax.random.uniform(jax.random.key(0), (210, 2, 2, 1), maxval=0.9)
    labels = jnp.arange(210, dtype=jnp.int32) % 3
    x = images[200:202].at[1].set(1.0)

    knn = classifiers.knn(broken, images, labels, k=2)
    retrieving = classifiers.retrieval(knn, Partial(lambda x: flat(x)[:, :3]), answer)
    nearest = classifiers.prototypes(knn, images.reshape(70, 3, 4).swapaxes(0, 1))
    every = jnp.arange(3, dtype=jnp.int32)

    def ask(knn, retrieving, nearest, x):
        two = x[jnp.array([1, 1, 1])]
        return {
            "predict": [model.predict(x) for model in (knn, retrieving, nearest)],
            "right": [model.right(two, every) for model in (knn, retrieving, nearest)],
            "margin": [model.margin(two, every) for model in (knn, retrieving, nearest)],
            "rivals": [model.rivals(x, every[:2], 3) for model in (knn, retrieving, nearest)],
            "references": knn.references(x, 2),
            "guides": knn.guides(x, every[:2], 2),
            "sample": nearest.nearest_sample(x, every[:2]),
        }

    told = (jax.jit(ask) if jit else ask)(knn, retrieving, nearest, x)
    for predicted in told["predict"]:
        assert predicted[1] == classifiers.NOBODY
        assert predicted[0] >= 0
    assert not np.any(told["right"])
    assert not np.any(told["margin"])
    for rivals in told["rivals"]:
        np.testing.assert_array_equal(rivals[1], jnp.broadcast_to(x[1], (3, 2, 2, 1)))
        assert (rivals[0] != x[:1]).any()
    assert (told["references"][0][1] == classifiers.FAR).all()
    assert not told["guides"].there[1].any()
    image, there = told["sample"]
    assert not there[1]
    np.testing.assert_array_equal(image[1], x[1])
    assert not jnp.isfinite(retrieving.held().references(x)[1]).any()


def test_prototypes_that_are_nan_are_refused():
    images = jnp.linspace(0.1, 0.9, 6)[:, None, None, None] * jnp.ones((1, 2, 2, 1))
    knn = classifiers.knn(flat, images, jnp.arange(6) % 3, k=1)
    with pytest.raises(ValueError, match="prototypes that are NaN"):
        classifiers.prototypes(knn, jnp.full((3, 4), jnp.nan))


def test_a_network_decides_by_its_largest_logit():
    x = jnp.array([[0.1, 0.7, 0.3], [0.5, 0.5, 0.2]]).reshape(2, 1, 3, 1)
    model = classifiers.network(flat, x)
    assert model.classes == 3
    np.testing.assert_array_equal(model.predict(x), [1, 0])
    np.testing.assert_allclose(model.margin(x, jnp.array([1, 1])), [0.4, 0.0], atol=1e-6)
    np.testing.assert_allclose(model.margin(x, jnp.array([0, 2])), [-0.6, -0.3], atol=1e-6)
    np.testing.assert_array_equal(model.votes(x), flat(x))
    with pytest.raises(ValueError, match="images reach from"):
        model.predict(255 * x)
    assert not hasattr(model, "images")
    with pytest.raises(ValueError, match=r"no images to start from: give network\(\.\.\., labels=\)"):
        model.rivals(x, jnp.array([0, 1]), 1)


def test_a_network_with_labels_starts_from_the_images_of_other_classes(digits):
    (images, labels), (x, y) = digits
    model = classifiers.network(Partial(project, WEIGHTS[0]), images, labels)
    np.testing.assert_array_equal(model.images, images)
    expected = classifiers.knn(flat, images, labels, k=1).rivals(x[:3], y[:3], 4)
    np.testing.assert_array_equal(model.rivals(x[:3], y[:3], 4), expected)


@pytest.mark.parametrize(("count", "each"), [(3, 1), (6, 2)])
def test_rivals_are_the_nearest_images_of_several_other_classes(model, digits, count, each):
    (images, labels), (x, y) = digits
    rivals = model.rivals(x[:7], y[:7], count)
    bank, labels = np.asarray(model.banks[0], np.float64), np.asarray(labels)
    for number, query in enumerate(np.asarray(project(WEIGHTS[0], x[:7]))):
        distance = np.linalg.norm(bank - query, axis=1)
        order = [np.argsort(np.where(labels == c, distance, np.inf))[:each] for c in range(10)]
        rows = np.concatenate([rows for c, rows in enumerate(order) if c != y[number]])
        nearest = rows[np.argsort(distance[rows])[:count]]
        np.testing.assert_array_equal(rivals[number], images[nearest])


def test_rivals_are_never_of_the_class_itself():
    """Not even where more are asked for than another class has rows: class 1 has one of the five."""
    images = jnp.array([0.1, 0.2, 0.3, 0.9, 0.4]).reshape(5, 1, 1, 1)
    model = classifiers.knn(flat, images, jnp.array([0, 0, 0, 1, 0]), k=1)
    for count in (1, 2, 4, 6):
        rivals = model.rivals(images[:1], jnp.array([0]), count)
        np.testing.assert_array_equal(rivals, jnp.full((1, count, 1, 1, 1), images[3]))


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("temperature", [0.0, 1e-6])
def test_soft_votes_of_k_references_at_a_tiny_temperature_are_the_votes(digits, k, temperature):
    x = digits[1][0]
    model = classifiers.knn(Partial(project, WEIGHTS[0]), *digits[0], k=k)
    soft = model.soft_votes(x, model.references(x), temperature)
    np.testing.assert_allclose(soft, model.votes(x), atol=1e-4)


def test_soft_votes_of_a_class_with_fewer_rows_than_references_are_finite():
    """Class 1 has one row of the three asked: it can have one vote at most."""
    images = jnp.array([0.1, 0.2, 0.3, 0.9]).reshape(4, 1, 1, 1)
    model = classifiers.knn(flat, images, jnp.array([0, 0, 0, 1]), k=3)
    x = jnp.full((1, 1, 1, 1), 0.8)
    references = model.references(x)

    def votes(x):
        return model.soft_votes(x, references, 0.1)[0, 1]

    value, gradient = jax.value_and_grad(votes)(x)
    assert 0.5 < value <= 1
    assert np.isfinite(gradient).all()


def test_it_passes_through_jit_as_an_argument(model, digits):
    x = digits[1][0]
    np.testing.assert_array_equal(jax.jit(lambda m, x: m.votes(x))(model, x), model.votes(x))
    leaves = [id(leaf) for leaf in jax.tree.leaves(model)]
    assert {id(model.images), id(model.labels), id(model.banks[0])} < set(leaves)
    assert len(leaves) == 4


def test_parameters_of_a_partial_are_no_constants_of_the_program(digits):
    """Beside a plain closure, whose weights are found in the program: the search can tell them."""

    def holds(features):
        model = classifiers.knn(features, *digits[0], k=5)
        leaves, tree = jax.tree.flatten(model)
        votes = jax.jit(lambda leaves, x: tree.unflatten(leaves).votes(x))
        return 'dense<"0x' in votes.lower(leaves, digits[1][0]).as_text()

    assert holds(lambda x: project(WEIGHTS[0], x))
    assert not holds(Partial(project, WEIGHTS[0]))


@pytest.mark.parametrize("batch", [4, 500])
def test_a_bank_can_be_built_inside_jit(monkeypatch, batch):
    """Also where the parameters have more rows than a batch has images."""
    monkeypatch.setattr(HOME, "BATCH", batch)
    images = jax.random.uniform(jax.random.key(0), (10, 8, 8, 1))
    labels = jnp.arange(10) % 2

    def votes(weights, images):
        return classifiers.knn(Partial(project, weights), images, labels, k=3).votes(images)

    expected = classifiers.knn(Partial(project, WEIGHTS[0]), images, labels, k=3).votes(images)
    np.testing.assert_array_equal(jax.jit(votes)(WEIGHTS[0], images), expected)


def test_track_wraps_the_range_of_batches(monkeypatch, digits):
    monkeypatch.setattr(embedding, "BATCH", 128)
    seen = []

    def track(batches):
        for first in batches:
            seen.append(first)
            yield first

    classifiers.knn(flat, *digits[0], k=1, track=track)
    assert seen == [0, 128, 256]


GREY = jnp.full((4, 2, 2, 1), 0.5)
PAIRS = jnp.array([0, 1, 0, 1])


def nan_in_row_two(x):
    return jnp.where(jnp.arange(len(x))[:, None] == 2, jnp.nan, flat(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 5}, "k=5 neighbours asked of a bank of 4 rows: use 1 to 4"),
        ({"k": 0}, "k=0 neighbours"),
        ({"images": GREY[:0], "labels": PAIRS[:0]}, "the bank is empty"),
        ({"images": GREY[:3]}, "one integer for each of the 3 images"),
        ({"images": GREY * 3}, r"images reach from 1.5 to 1.5: they must be in \[0, 1\]"),
        ({"images": GREY - 1}, "images reach from -0.5"),
        ({"images": GREY.at[0].set(1.00002)}, r"images reach from 0.5 to 1.00002: "),
        ({"images": GREY.at[0].set(jnp.nan)}, "image 0 holds NaN"),
        ({"images": GREY[..., 0]}, r"images of shape \(4, 2, 2\): \(batch, height, width, channel\)"),
        ({"images": GREY.astype(jnp.uint8)}, r"images are uint8.*\(bytes: divide by 255\)"),
        ({"labels": jnp.array([0, 2, 0, 2])}, "no row of class 1 in the bank"),
        ({"labels": jnp.array([0, -1, 0, 1])}, "labels reach from -1 to 1: out of range"),
        ({"labels": jnp.array([0, 10**9, 0, 1])}, "no row of class 2"),
        ({"labels": PAIRS.astype(jnp.float32) + 0.5}, "labels are float32"),
        ({"k": 2.5}, "k=2.5"),
        ({"features": nan_in_row_two}, "tap 0: the features of bank row 2 are NaN"),
        ({"features": [flat, nan_in_row_two], "names": ("relu1", "relu2")}, "relu2: .* bank row 2 are"),
        ({"features": lambda x: x}, r"tap 0: features of shape \(4, 2, 2, 1\).*flatten them"),
        ({"features": []}, "0 names for 0 taps"),
        ({"names": ("a", "b")}, "2 names for 1 taps"),
        ({"metric": "Cosine"}, "metric='Cosine': use 'l2'.*'cosine'"),
        ({"metric": "inner_product"}, "metric=InnerProduct.* may be negative"),
    ],
)
def test_what_makes_no_classifier_is_refused(arguments, message):
    unchecked = inspect.unwrap(classifiers.knn)  # by jaxtyping, whose error would come first
    with pytest.raises(ValueError, match=message):
        unchecked(**{"features": flat, "images": GREY, "labels": PAIRS, "k": 1} | arguments)


def test_a_label_beyond_the_classes_is_refused():
    with pytest.raises(ValueError, match="labels reach from 0 to 7: out of range of 3 classes"):
        classifiers.check_labels(jnp.array([0, 7]), 2, 3)


def test_several_taps_take_one_pass_of_the_network():
    """Forward and backward: as much work as the deepest alone, but for the search."""
    net = nets.digits_vgg().build(3)
    images = jax.random.uniform(jax.random.key(0), (6, 8, 8, 1))
    variables = jax.jit(net.init)(jax.random.key(1), images)

    def work(*layers):
        features = nets.features(net, variables, layers, (1, 8, 8, 1))
        model = classifiers.knn(features, images[:1], jnp.zeros(1, int), k=1)  # hardly a search
        references = model.references(images, 1)

        def votes(model, x):
            return model.soft_votes(x, references, 1.0).sum()

        return [
            jax.jit(function).lower(model, images).compile().cost_analysis()["flops"]
            for function in (votes, jax.grad(votes, argnums=1), type(model).votes)
        ]

    for both, deepest in zip(work("conv1", "conv2"), work("conv2"), strict=True):
        assert both < 1.05 * deepest


def test_no_images_are_refused():
    model = classifiers.knn(flat, GREY, PAIRS, k=1)
    with pytest.raises(ValueError, match=r"shape \(0, 2, 2, 1\): give at least one"):
        model.predict(GREY[:0])
    with pytest.raises(ValueError, match=r"shape \(0, 2, 2, 1\): give at least one"):
        attacks.minimum_norm(jax.random.key(0), model, GREY[:0], PAIRS[:0])


@pytest.mark.parametrize(("value", "kept"), [(1.0000001, 1.0), (1.000001, 1.0), (-1e-6, 0.0)])
def test_what_rounding_left_outside_is_clipped(value, kept):
    images = np.full((2, 1, 1, 1), 0.5, np.float32)
    images[1] = value
    found = classifiers.check_images(jnp.asarray(images))
    np.testing.assert_array_equal(found[:, 0, 0, 0], [0.5, kept])


def test_labels_too_large_for_int32_are_no_small_ones():
    with pytest.raises(ValueError, match="labels reach from 0 to 4294967296: out of range"):
        classifiers.check_labels(np.array([0, 2**32]), 2)


def test_logits_of_fewer_classes_than_labels_are_refused(digits):
    images, labels = digits[0]
    with pytest.raises(ValueError, match="labels of 10 classes, and logits of 4"):
        classifiers.network(lambda x: flat(x)[:, :4], images, labels)
    near = classifiers.knn(flat, images, labels, k=2)
    with pytest.raises(ValueError, match="labels of 10 classes, and logits of 4"):
        classifiers.retrieval(near, flat, lambda x, rows, nearness: x[:, :4])


class InTraining(linen.Module):
    """A network whose statistics are the batch's, or that drops numbers at random."""

    kind: str

    @linen.compact
    def __call__(self, x):
        x = linen.Conv(4, (3, 3))(x)
        if self.kind == "statistics":
            x = linen.BatchNorm(use_running_average=False)(x)
        if self.kind == "dropout":
            x = linen.Dropout(0.1, deterministic=False)(x)
        return linen.Dense(10)(flat(x))


def centred(x):
    return flat(x) - flat(x).mean(0, keepdims=True)


def dropped(x):
    kept = jax.random.bernoulli(jax.random.key(0), 0.9, (len(x), 64))
    return jnp.where(kept, flat(x), 0.0)


def as_given(kind):
    """Features of a network that was left in training mode."""
    net = InTraining(kind)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = net.init(keys, jnp.zeros((2, 8, 8, 1)))

    def features(variables, x):
        return net.apply(variables, x, rngs=keys, mutable=["batch_stats"])[0]

    return Partial(features, variables)


@pytest.mark.parametrize("features", ["statistics", "dropout", centred, dropped])
@pytest.mark.parametrize("rows", [2, 40])
def test_a_network_in_training_mode_is_noticed(digits, features, rows):
    images, labels = digits[0][0][:rows], digits[0][1][:rows]
    features = as_given(features) if isinstance(features, str) else features
    with pytest.warns(UserWarning, match="depends on the others of its batch"):
        keyed = classifiers.knn([flat, features], images, labels, k=2)
    with pytest.warns(UserWarning, match="depends on the others of its batch"):
        classifiers.network(features, images)
    near = classifiers.knn(flat, images, labels, k=2)
    with pytest.warns(UserWarning, match="depends on the others of its batch"):
        classifiers.retrieval(near, features, lambda x, rows, nearness: x)
    with pytest.warns(UserWarning, match="depends on the others of its batch"):
        classifiers.retrieval(near, flat, lambda x, rows, nearness: features(x.reshape(-1, 8, 8, 1)))
    # Nothing else is noticed when it decides, and nothing inside a caller's jit.
    keyed.predict(images)
    jax.jit(lambda x: classifiers.knn(features, x, labels, k=1).banks)(images)


@pytest.mark.parametrize(
    "net",
    [
        *(nets.digits_convnet(), nets.digits_vgg(), nets.digits_preact_resnet()),
        *(nets.digits_racnn(), nets.Pixels()),
    ],
    ids=lambda net: type(net).__name__,
)
def test_a_network_as_in_evaluation_is_not(digits, net):
    """Warnings are errors here: none, however many rows, taps and numbers there are."""
    racnn, net = isinstance(net, nets.RaCNN), net.build(10)
    images, labels = digits[0]
    variables = net.init(jax.random.key(0), images[:2])
    layers = tuple(nets.taps(net, variables, (1, 8, 8, 1)))
    features = nets.features(net, variables, layers, (1, 8, 8, 1))
    for rows in (10, 37, 300):
        classifiers.knn(features, images[:rows], labels[:rows], k=1, metric="cosine")
    if not racnn:
        classifiers.network(nets.output(net, variables), images, labels)


def test_a_network_that_rounds_more_is_not_either(digits):
    def features(weights, x):
        hidden = jnp.tanh(flat(x).astype(jnp.bfloat16) @ weights.astype(jnp.bfloat16))
        return hidden.astype(jnp.float32) - 0.1

    classifiers.knn(Partial(features, WEIGHTS[0]), *digits[0], k=1)
    classifiers.network(Partial(features, WEIGHTS[0]), digits[0][0])
