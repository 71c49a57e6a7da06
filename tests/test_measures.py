"""The contract of measures. A new one is tested by adding it to the list."""

import dataclasses
import hashlib
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from sklearn.datasets import load_digits

from knn_jax import classifiers, data, measures, neighbors, values
from knn_jax.measures import Credibility, JacobianNorm, LocalDimension, Measured, Points

pytestmark = pytest.mark.usefixtures("quick")
MEASURES = [LocalDimension(images=6, neighbors=30), JacobianNorm(images=6, steps=64), Credibility(10)]
every = pytest.mark.parametrize("measure", MEASURES, ids=repr)
WEIGHTS = jax.random.normal(jax.random.key(0), (64, 12))
CHUNK = 4
PNG = b"\x89PNG"


def flat(x):
    return x.reshape(len(x), -1)


def linear(weights, x):
    return flat(x) @ weights


class Run(SimpleNamespace):
    """A run of one process in memory: its `computed` counts batches."""

    def over(self, name, function, split, settings):
        told = json.dumps([name, settings]).encode() + b"".join(part.tobytes() for part in split)
        identity = hashlib.blake2b(told).hexdigest()
        if identity not in self.found:
            parts = [
                self._chunk(function, split, first) for first in range(0, len(split.labels), CHUNK)
            ]
            self.found[identity] = {
                key: np.concatenate([part[key] for part in parts]) for key in parts[0]
            }
        return self.found[identity] | {"seconds": 0.25}

    def _chunk(self, function, split, first):
        self.computed += 1
        x = split.floats(first, first + CHUNK)
        y = split.labels[first : first + CHUNK]
        found = function(self.model, jax.random.key(first), jnp.asarray(x), jnp.asarray(y))
        return {key: np.asarray(leaf) for key, leaf in found.items()}


@pytest.fixture(scope="module")
def dataset():
    """Digits: 200 in the bank, 20 that calibrate, 40 to test."""
    bunch = load_digits()
    x, y = (bunch.images[..., None] / 16).astype(np.float32), bunch.target.astype(np.int32)
    splits = [data.Split(x[a:b], y[a:b]) for a, b in ((0, 200), (200, 220), (220, 260))]
    return data.Dataset(*splits, 10)


@pytest.fixture(scope="module")
def model(dataset):
    """5-NN in two layers, the first of which is linear."""
    layers = [Partial(linear, WEIGHTS), flat]
    rows, labels = map(jnp.asarray, dataset.train)
    return classifiers.knn(layers, rows, labels, k=5)


@pytest.fixture
def run(model, dataset):
    """Of three attacked images the second is found, the first is wrong without an attack."""
    norm = np.array([0, 2, np.inf], np.float32)
    image = np.full((3, 8, 8, 1), 0.5, np.float32)
    attacked = {"minimum_norm_l2": {"image": image, "norm": norm, "success": np.isfinite(norm)}}
    about = {"name": "digits: 5-NN", "layer": "linear", "model": model, "dataset": dataset}
    return Run(**about, attacked=attacked, seed=0, found={}, computed=0)


@every
def test_what_it_tells_can_be_written_down(measure, run):
    told = measure.run(run)
    assert json.loads(json.dumps(told.summary)) == told.summary
    assert all(column.shape == (measure.images,) for column in told.columns.values())
    assert all(picture.startswith(PNG) for picture in told.pictures.values())
    assert isinstance(run.model, measure.needs)
    assert measure.cites


@every
def test_what_was_computed_is_found_again_and_other_knobs_are_computed(measure, run):
    told, before = measure.run(run), run.computed
    again = measure.run(run)
    assert run.computed == before
    assert again.summary == told.summary
    for field in dataclasses.fields(measure):
        other = dataclasses.replace(measure, **{field.name: getattr(measure, field.name) - 1})
        other.run(run)
        assert run.computed > before
        before = run.computed


@every
def test_a_value_prints_itself_and_turns_into_json(measure):
    assert eval(repr(measure), vars(measures)) == measure
    knobs = {field.name: getattr(measure, field.name) for field in dataclasses.fields(measure)}
    assert json.loads(json.dumps(values.told(measure))) == {"class": type(measure).__name__, **knobs}


def test_dimension_and_jacobian_norm_are_those_of_the_first_layer(run):
    dimension, norm = (measure.run(run) for measure in MEASURES[:2])
    x = jnp.asarray(run.dataset.test.floats(0, 6))
    expected = measures.lid(linear(WEIGHTS, x), run.model.banks[0], 30)
    np.testing.assert_allclose(dimension.columns["lid"], expected, rtol=1e-5)
    truth = np.linalg.norm(np.asarray(WEIGHTS, np.float64), 2)
    np.testing.assert_allclose(norm.columns["jacobian_norm"], truth, rtol=1e-5)
    few = JacobianNorm(images=6, steps=1).run(run).columns["jacobian_norm"]
    assert (few < 0.99 * truth).all()
    assert dimension.summary["analysis"]["lid"] == pytest.approx(float(np.mean(expected)), rel=1e-5)
    assert norm.summary["analysis"]["jacobian_norm"] == pytest.approx(truth, rel=1e-5)


def test_measures_of_one_layer_are_told_together(run):
    both = measures.join([measure.run(run) for measure in MEASURES])
    assert list(both.summary) == ["analysis", "credibility"]
    told = both.summary["analysis"]
    assert set(told) == {"layer", "n", "lid", "jacobian_norm", "seconds"}
    assert (told["layer"], told["n"], told["seconds"]) == ("linear", 6, 0.5)
    assert list(both.columns) == ["lid", "jacobian_norm"]
    assert list(both.pictures) == ["credibility.png"]
    assert measures.join([]) == Measured({})


@pytest.mark.parametrize(("lid", "mean"), [([2, np.inf, 4], 3), ([np.inf] * 3, None)])
def test_a_dimension_that_is_infinite_is_left_out_of_the_mean(run, lid, mean):
    run.over = lambda *_: {"lid": np.array(lid), "seconds": 1.0}
    told = LocalDimension(images=3).run(run).summary["analysis"]
    assert (told["lid"], told["n"]) == (mean, 3)


def test_credibility_is_that_of_each_kind_of_image(run):
    told = Credibility(10).run(run).summary["credibility"]
    x, (images, labels) = run.dataset.test.floats(0, 10), run.dataset.valid
    held_out = measures.calibrate(run.model, jnp.asarray(images), jnp.asarray(labels))
    grey, turned = np.full((1, 8, 8, 1), 0.5, np.float32), np.rot90(x, axes=(1, 2))
    kinds = {"clean": x, "minimum_norm_l2": grey, "turned": turned}
    assert [(kind["images"], kind["n"]) for kind in told] == [
        *((name, len(of)) for name, of in kinds.items()),
        ("noise", 10),
    ]
    for kind, of in zip(told, kinds.values(), strict=False):
        expected = measures.credibility(run.model, held_out, jnp.asarray(of))
        assert kind["credibility"] == pytest.approx(float(expected.credibility.mean()), rel=1e-6)
        assert kind["confidence"] == pytest.approx(float(expected.confidence.mean()), rel=1e-6)
    clean, _, turned, noise = (kind["credibility"] for kind in told)
    assert max(turned, noise) < clean
    before = run.computed
    run.attacked["minimum_norm_l2"]["image"][1] = 0.25
    Credibility(10).run(run)
    assert run.computed == before + 8  # of 31 images in fours; the calibration is found again


def test_an_attack_that_found_nothing_has_no_credibility(run):
    run.attacked["minimum_norm_l2"]["norm"][1] = 0
    told = Credibility(4).run(run).summary["credibility"]
    assert [kind["images"] for kind in told] == ["clean", "turned", "noise"]


def test_points_are_drawn_of_subspaces_of_three_dimensions(run):
    def drawn(count, dim):
        features = Partial(linear, WEIGHTS[:, :dim])
        run.model = classifiers.knn(
            features, run.model.images, run.model.labels, k=5, metric=neighbors.Subspaces(count)
        )
        return Points(5).run(run)

    assert drawn(2, 6).pictures["clusters.png"].startswith(PNG)
    with pytest.raises(ValueError, match="linear has 2 in 8"):
        drawn(2, 8)


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        (LocalDimension(5, neighbors=201), "neighbors=201 asked of a bank of 200 rows"),
        (LocalDimension(41, neighbors=2), "LocalDimension: images=41: the test set has 40 images"),
        (JacobianNorm(41), "images=41"),
        (Credibility(41), "images=41"),
        (Points(41), "images=41"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_work(dataset, measure, words):
    with pytest.raises(ValueError, match=words) as error:
        measure.check(dataset, 200)
    assert "\n" not in str(error.value)
    dataclasses.replace(measure, images=40, **({"neighbors": 200} if "neigh" in words else {})).check(
        dataset, 200
    )


def test_only_credibility_needs_square_images(dataset):
    wide = dataset._replace(test=dataset.test._replace(images=dataset.test.images[:, :4]))
    LocalDimension(5, neighbors=30).check(wide, 200)
    with pytest.raises(ValueError, match=r"must be square, and these are 4x8: data\.size"):
        Credibility(5).check(wide, 200)


@pytest.mark.parametrize(
    ("kind", "knobs"),
    [
        (LocalDimension, {"images": 0}),
        (LocalDimension, {"images": 1, "neighbors": 1}),
        (JacobianNorm, {"images": 0}),
        (JacobianNorm, {"images": 1, "steps": 0}),
        (Credibility, {"images": 0}),
        (Points, {"images": 0}),
    ],
)
def test_knobs_out_of_range_are_refused(kind, knobs):
    with pytest.raises(ValueError, match=list(knobs)[-1]):
        kind(**knobs)
