"""Randomized smoothing against classifiers whose smoothing has a closed form."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from points import classifier, images
from scipy import stats

from knn_jax import certificates, classifiers, data, defenses, nets
from knn_jax.certificates import ABSTAIN, Smoothing
from knn_jax.evaluation import certified
from knn_jax.recipe import Evaluate, Recipe, fit
from knn_jax.report import summary
from knn_jax.training import Optim

pytestmark = pytest.mark.usefixtures("quick")
smoothing = inspect.getmodule(certificates.smoothing)
SIGMA = 0.25


@pytest.fixture(scope="module")
def halves(quick):
    """1-NN on two rows: class 0 left of .5 in the first pixel; points at .1, .3, .5, .505 and .8."""
    model = classifier([[0.2, 0.5], [0.8, 0.5]], [0, 1])
    return model, images([[first, 0.4] for first in (0.1, 0.3, 0.5, 0.505, 0.8)])


def test_radii_come_near_the_distance_to_a_plane_and_not_above(halves):
    """A linear decision smoothed is the same one, its radius the distance."""
    model, x = halves
    found = certificates.smoothing(jax.random.key(0), model, x, sigma=SIGMA, samples=4000)
    distance = np.array([0.4, 0.2, 0.0, 0.005, 0.3])
    assert (found.radius <= distance).all()
    np.testing.assert_array_equal(found.predict, [0, 0, ABSTAIN, ABSTAIN, 1])
    np.testing.assert_array_equal(found.radius[2:4], 0)
    sure = np.array([0, 1, 4])
    assert (found.radius[sure] > 0.85 * distance[sure]).all()


def test_any_classifier_will_do(halves):
    """A network of the same decisions, the same noise: the same answer; another key, another."""
    model, x = halves
    same = classifiers.network(lambda x: (x[:, 0, :1, 0] - 0.5) * jnp.array([[-1.0, 1.0]]), x)
    settings = {"sigma": SIGMA, "samples": 200}
    first, second = (certificates.smoothing(jax.random.key(0), m, x, **settings) for m in (model, same))
    np.testing.assert_array_equal(first.predict, second.predict)
    np.testing.assert_array_equal(first.radius, second.radius)
    other = certificates.smoothing(jax.random.key(1), model, x, **settings)
    assert (other.radius != first.radius).any()


@pytest.mark.parametrize("samples", [1, 37, 600])
def test_every_sample_counts_once(samples, halves):
    chosen, tested = smoothing.sampled(jax.random.key(0), *halves, jnp.float32(SIGMA), samples)
    np.testing.assert_array_equal(chosen.sum(1), 100)
    np.testing.assert_array_equal(tested.sum(1), samples)


def test_the_class_is_chosen_by_other_samples_than_it_is_tested_on(halves):
    chosen, tested = smoothing.sampled(jax.random.key(0), *halves, jnp.float32(SIGMA), 100)
    assert (chosen != tested).any()


def test_counts_do_not_depend_on_what_is_computed_together(halves, monkeypatch):
    model, x = halves
    expected = smoothing.sampled(jax.random.key(0), model, x, jnp.float32(SIGMA), 50)
    monkeypatch.setattr(smoothing, "BATCH", 15)
    jax.clear_caches()
    found = smoothing.sampled(jax.random.key(0), model, x, jnp.float32(SIGMA), 50)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_bound_is_that_of_clopper_and_pearson():
    hits, alpha = np.array([0, 1, 50, 99, 100]), 0.01
    expected = [
        stats.binomtest(int(h), 100, alternative="greater").proportion_ci(1 - alpha, "exact").low
        for h in hits
    ]
    np.testing.assert_allclose(smoothing.lower_bound(hits, 100, alpha), expected, rtol=1e-9)
    np.testing.assert_allclose(expected[-1], alpha ** (1 / 100))  # all hits


def test_radii_worked_by_hand():
    """All of 100 hits: sigma times the quantile of .001^(1/100); a third of them, or 62, of
    which no more than half are sure: abstains. The class
    is that of the first counts, whatever the others say."""
    chosen = np.array([[60, 40, 0], [60, 40, 0], [40, 60, 0], [60, 40, 0]])
    tested = np.array([[100, 0, 0], [33, 67, 0], [100, 0, 0], [62, 38, 0]])
    found = certificates.Smoothing(0.5, 100, 0.001).decide(chosen, tested)
    np.testing.assert_array_equal(found.predict, [0, ABSTAIN, ABSTAIN, ABSTAIN])
    expected = 0.5 * stats.norm.ppf(0.001**0.01)
    np.testing.assert_allclose(found.radius, [expected, 0, 0, 0], rtol=1e-9)


def test_a_recipe_is_smoothed_and_resumes(tmp_path, monkeypatch):
    """The file has a line for each image; a second run computes nothing and writes the same."""
    recipe = Recipe(
        name="smoothed",
        data=data.Digits(),
        defense=defenses.Untrained(nets.Pixels()),
        classifier=fit.KNN(layers=("pixels",), k=5, rows=100),
        certificates={"smoothing": Smoothing(0.1, samples=50)},
        evaluate=Evaluate(images=6, radii=(0.1,), certified_chunk=4),
    )
    dataset, certificate = recipe.data.load(), recipe.certificates["smoothing"]
    certified.check(recipe, dataset)
    system = fit.system(recipe.defense, recipe.classifier, Optim(), dataset, tmp_path)
    labels = dataset.test.labels[:6]

    def files():
        found = certified.certify(recipe, system, "smoothing", certificate, tmp_path)
        index = np.arange(7, 1, -1)  # of images that were drawn
        return found, certificate.files(found.arrays, labels, index, found.seconds)

    found, texts = files()
    [(name, text)] = texts.items()
    assert name == "smoothing.tsv"
    head, *lines = (line.split("\t") for line in text.splitlines())
    assert head == ["idx", "label", "predict", "radius", "correct", "time"]
    assert [int(line[0]) for line in lines] == [7, 6, 5, 4, 3, 2]
    for line, label in zip(lines, labels, strict=True):
        assert int(line[1]) == label
        assert int(line[4]) == (int(line[2]) == label)
        assert (float(line[3]) > 0) == (int(line[2]) != ABSTAIN)
    monkeypatch.delattr(Smoothing, "bound")
    assert files()[1] == texts
    told = summary.certificate(recipe, "smoothing", certificate, found, np.zeros(6, bool))
    right = [float(line[3]) for line in lines if line[4] == "1"]
    assert any(right)
    assert told["clean_acc"] == len(right) / 6
    assert told["abstains"] == sum(int(line[2]) == ABSTAIN for line in lines) / 6
    assert told["mean_radius"] == pytest.approx(np.mean(right), rel=1e-5)
    assert told["certified_acc"]["0.1"] == sum(radius >= 0.1 for radius in right) / 6
