"""Sitawarin & Wagner's figures on MNIST: their weights, 1-NN on pixels, and the TFDS set."""

import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from knn_jax import attacks, certificates, classifiers, data, defenses, measures, nets
from knn_jax.recipe import fit
from knn_jax.training import Optim

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MNIST = SHARED / "mnist.npz"
TFDS = Path(os.environ.get("KNN_JAX_TFDS", "~/tensorflow_datasets")).expanduser()
KEY = jax.random.key(0)
FIRST = [51324, 12855, 52192, 47491, 56371, 5246]  # of the training images, in the authors' order

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not MNIST.exists(), reason=f"there is no {MNIST}"),
]


@pytest.fixture(scope="module")
def dataset():
    return data.NPZ(str(MNIST)).load()


@pytest.fixture(scope="module")
def test_set(dataset):
    return jnp.asarray(dataset.test.floats(0, 10_000)), jnp.asarray(dataset.test.labels)


@pytest.fixture(scope="module")
def basic(dataset, tmp_path_factory):
    """75-NN on relu3 of 54,000 rows, in the authors' Basic network."""
    weights = str(SHARED / "mnist_basic_weights.npz")
    defense = defenses.CrossEntropy(nets.mnist_convnet(), weights=weights)
    classifier, optim = fit.KNN(layers=("relu3",), k=75), Optim()
    fit.check(defense, classifier, optim, dataset)
    return fit.system(defense, classifier, optim, dataset, tmp_path_factory.mktemp("basic"))


@pytest.fixture(scope="module")
def nearest(dataset, tmp_path_factory):
    """1-NN on the pixels of 54,000 images."""
    defense, classifier = defenses.Untrained(nets.Pixels()), fit.KNN(layers=("pixels",), k=1)
    folder = tmp_path_factory.mktemp("pixels")
    return fit.system(defense, classifier, Optim(), dataset, folder).model


def test_the_split_is_the_authors(dataset):
    assert [len(split.labels) for split in dataset[:3]] == [54_000, 6_000, 10_000]
    with np.load(MNIST) as original:
        images, labels = original["train_images"][FIRST], original["train_labels"][FIRST]
    assert np.array_equal(dataset.train.images[:6, ..., 0], images)
    assert np.array_equal(dataset.train.labels[:6], labels)


def logits(system):
    """Of the network itself."""
    return nets.output(system.trained.net, system.trained.variables)


def test_the_network_is_right_on_9878(basic, test_set):
    network = jax.jit(logits(basic))
    x, y = test_set
    right = sum(
        int(jnp.sum(jnp.argmax(network(x[i : i + 1000]), 1) == y[i : i + 1000]))
        for i in range(0, 10_000, 1000)
    )
    assert right == 9878


def test_its_neighbours_are_right_on_9870_with_one_tie(basic, test_set):
    x, y = test_set
    votes = np.asarray(basic.model.votes(x))
    assert votes.shape == (10_000, 10)
    assert np.all(votes.sum(1) == 75)
    assert np.sum(votes.argmax(1) == y) == 9870
    first, second = np.sort(votes, 1)[:, :-3:-1].T
    assert np.sum(first == second) == 1


def test_an_attack_of_100_gradients_finds_every_one(basic, test_set):
    model, (x, y) = basic.model, test_set
    x, y = x[:30], y[:30]
    right = np.flatnonzero(np.asarray(model.predict(x)) == y)[:20]
    x, y = x[right], y[right]
    found = attacks.minimum_norm(KEY, model, x, y, steps=100, starts=1)
    assert len(right) == 20
    assert np.all(found.success)
    assert found.gradients == 100
    assert np.all(model.predict(found.image) != y)
    norms = np.linalg.norm(np.asarray(found.image - x).reshape(20, -1), axis=1)
    np.testing.assert_allclose(found.norm, norms, rtol=1e-5)
    assert norms.mean() <= 1.55


def test_the_authors_attacks_and_one_on_the_bare_network(basic, test_set):
    """4 images and fewer rounds than theirs; all of them, for 50 images, are in the README."""
    model, (x, y) = basic.model, test_set
    x, y = x[:4], y[:4]
    guided = attacks.guided(KEY, model, x, y, rounds=4)
    hinged = attacks.hinged(KEY, model, x, y, steps=300, rounds=4, refresh=100)
    bare = attacks.carlini_wagner(KEY, logits(basic), x, y, steps=150, rounds=5)
    assert all(found.success.all() for found in (guided, hinged, bare))
    assert guided.norm.mean() == pytest.approx(2.43, abs=0.08)
    assert bare.norm.mean() == pytest.approx(1.30, abs=0.03)
    assert bare.norm.mean() < hinged.norm.mean() < guided.norm.mean()


def test_nearest_pixels_and_what_they_certify(nearest, test_set):
    x, y = test_set
    right = np.asarray(nearest.predict(x)) == y
    assert right.sum() == 9683
    margin = np.asarray(certificates.margin(nearest, x, y))
    assert np.all(margin[~right] == 0)
    assert margin[right].mean() == pytest.approx(0.9054, abs=5e-4)
    voronoi = np.asarray(certificates.voronoi(nearest, x[:500], y[:500]))
    assert np.all(voronoi >= margin[:500])
    assert voronoi.mean() > 1.3 * margin[:500].mean()


def test_the_exact_radius_of_nearest_pixels(nearest, test_set):
    """Of the first 200, without and with the box."""
    x, y = (leaf[:200] for leaf in test_set)
    right = np.asarray(nearest.predict(x)) == y
    voronoi = certificates.voronoi(nearest, x, y)
    free, box = (certificates.exact(nearest, x, y, box=box) for box in (False, True))
    assert np.all(voronoi <= free.lower)
    assert np.all(free.lower <= box.upper)
    for found, mean in ((free, 1.4275), (box, 1.4797)):
        assert np.all(found.closed)
        assert np.all(found.lower <= found.upper)
        assert np.max(found.upper - found.lower) < 4e-3
        assert np.asarray(found.lower)[right].mean() == pytest.approx(mean, abs=3e-3)
    changed = nearest.predict(box.point.reshape(x.shape))
    assert np.all(changed != y)


@pytest.mark.parametrize(
    ("layer", "images", "expected"), [("relu3", 100, 8.4606), ("pixels", 1000, 12.878)]
)
def test_the_dimensions_are_the_authors(basic, test_set, layer, images, expected):
    """All 1,000 images give 8.5105 on relu3, and theirs 8.5105; the first 100 are quicker."""
    model, x = basic.model, test_set[0][:images]
    if layer == "pixels":
        found = measures.lid(x.reshape(images, -1), model.images.reshape(54_000, -1))
    else:
        found = measures.lid(model.first(x), model.banks[0])
    assert found.mean() == pytest.approx(expected, rel=1e-3)


def test_the_norm_of_its_jacobian_is_the_authors(basic, test_set):
    """All 1,000 images give 26.2306, and theirs 26.231; the first 50 are quicker."""
    found = measures.jacobian_norm(Partial(classifiers.KNN.first, basic.model), test_set[0][:50])
    assert found.mean() == pytest.approx(26.596, rel=1e-3)


def hashes(split):
    """One number for each image and its label, in an order of their own."""
    weights = np.random.default_rng(0).integers(2**62, size=784)
    flat = split.images.reshape(len(split.labels), -1)
    parts = [flat[i : i + 5000].astype(np.int64) @ weights for i in range(0, len(flat), 5000)]
    return np.concatenate(parts) + split.labels


@pytest.mark.skipif(not (TFDS / "mnist").is_dir(), reason=f"mnist is not prepared in {TFDS}")
def test_the_tfds_set_is_the_same_and_the_second_load_takes_under_a_second(dataset):
    mnist = data.TFDS("mnist", data_dir=str(TFDS))
    found = mnist.load()
    assert [len(split.labels) for split in found[:3]] == [54_000, 6_000, 10_000]
    one, other = (
        [np.sort(np.concatenate([hashes(s) for s in splits])) for splits in (d[:2], d[2:3])]
        for d in (found, dataset)
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    start = time.perf_counter()
    again = mnist.load()
    assert time.perf_counter() - start < 1
    assert np.array_equal(again.train.images[:100], found.train.images[:100])
