"""What is measured of features and votes: equal to the measures themselves, resumed, and refused."""

import csv
import dataclasses
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

from knn_jax import analysis, attacks, config, data, diagnosis, jobs, pages, recipes, tables
from knn_jax.attacks import Found
from knn_jax.chunks import Outcome

pytestmark = pytest.mark.usefixtures("quick")


def pixels(layers=("pixels",), **analyze):
    return config.Config(
        name="pixels",
        net=config.Net(name="pixels"),
        classifier=config.Classifier(layers=layers, k=5, bank_rows=200),
        attack=config.Attack(images=6, steps=4, starts=2, chunk=4),
        certify=config.Certify(other=64, chunk=120),
        analyze=config.Analyze(neighbors=30, chunk=4, **analyze),
    )


@pytest.fixture(scope="module")
def dataset():
    return data.load(config.Data())


@pytest.fixture(scope="module")
def defended(dataset, tmp_path_factory):
    """A 5-NN of 200 digits, calibrated by 20."""
    recipe = pixels()
    model = recipes.defend(recipe, dataset, tmp_path_factory.mktemp("none"))
    valid = data.Split(*(array[:20] for array in dataset.valid))
    return recipe, model._replace(dataset=dataset._replace(valid=valid))


def refuse(*_, **__):
    raise AssertionError("this was to be loaded, not computed")


def measuring(recipe, **analyze):
    return dataclasses.replace(recipe, analyze=dataclasses.replace(recipe.analyze, **analyze))


def test_dimension_and_jacobian_norm_are_those_of_the_first_layer(defended, tmp_path, monkeypatch):
    recipe, model = defended
    recipe = measuring(recipe, images=6)
    found = diagnosis.features(recipe, model, tmp_path)
    flat = model.dataset.test.floats(0, 6).reshape(6, -1)
    expected = analysis.lid(jnp.asarray(flat), model.model.banks[0], 30)
    np.testing.assert_allclose(found.arrays["lid"], expected, rtol=1e-5)
    np.testing.assert_allclose(found.arrays["jacobian_norm"], 1, rtol=1e-5)
    monkeypatch.setattr(analysis, "lid", refuse)
    again = diagnosis.features(recipe, model, tmp_path)
    np.testing.assert_array_equal(again.arrays["lid"], found.arrays["lid"])
    with pytest.raises(AssertionError, match="to be loaded"):
        diagnosis.features(measuring(recipe, neighbors=31), model, tmp_path)


def test_the_steps_reach_the_power_iteration(defended, tmp_path, monkeypatch):
    recipe, model = defended
    monkeypatch.setattr(
        analysis, "jacobian_norm", lambda _, x, *, steps: jnp.full(len(x), float(steps))
    )
    found = diagnosis.features(measuring(recipe, images=2, steps=7), model, tmp_path)
    np.testing.assert_array_equal(found.arrays["jacobian_norm"], [7, 7])


def attacked(model):
    """Of three images the second is found, the first is wrong without an attack."""
    image = np.full((3, 8, 8, 1), 0.5, np.float32)
    norm = np.array([0, 2, np.inf], np.float32)
    return {
        ("minimum_norm", "l2"): Outcome(
            {"image": image, "norm": norm, "success": np.isfinite(norm)}, 1, 0
        )
    }


def test_credibility_is_that_of_each_kind_of_image(defended, tmp_path, monkeypatch):
    recipe, model = defended
    recipe = measuring(recipe, credibility=10)
    found = diagnosis.credibility(recipe, model, attacked(model), tmp_path)
    x, (images, labels) = model.dataset.test.floats(0, 10), model.dataset.valid
    held_out = analysis.calibrate(model.model, jnp.asarray(images), jnp.asarray(labels))
    grey, turned = np.full((1, 8, 8, 1), 0.5, np.float32), np.rot90(x, axes=(1, 2))
    kinds = {"clean": x, "minimum_norm_l2": grey, "turned": turned}
    expected = analysis.credibility(model.model, held_out, jnp.concatenate(list(kinds.values())))
    for key in ("credibility", "confidence"):
        together = np.concatenate([getattr(found[name], key) for name in kinds])
        np.testing.assert_array_equal(together, getattr(expected, key))
    assert list(found) == ["clean", "minimum_norm_l2", "turned", "noise"]
    assert len(found["noise"].credibility) == 10
    means = {name: trust.credibility.mean() for name, trust in found.items()}
    assert max(means["turned"], means["noise"]) < means["clean"]
    monkeypatch.setattr(analysis, "nonconformity", refuse)
    monkeypatch.setattr(analysis, "credibility", refuse)
    again = diagnosis.credibility(recipe, model, attacked(model), tmp_path)
    for name, trust in found.items():
        np.testing.assert_array_equal(np.stack(again[name]), np.stack(trust))
    other = attacked(model)
    other["minimum_norm", "l2"].arrays["image"][1] = 0.25
    with pytest.raises(AssertionError, match="to be loaded"):
        diagnosis.credibility(recipe, model, other, tmp_path)


def test_an_attack_that_found_nothing_has_no_credibility(defended, tmp_path, monkeypatch):
    recipe, model = defended
    monkeypatch.setattr(analysis, "nonconformity", lambda model, x: jnp.zeros((len(x), 10), jnp.int32))
    none = attacked(model)
    none["minimum_norm", "l2"].arrays["norm"][1] = 0
    found = diagnosis.credibility(measuring(recipe, credibility=4), model, none, tmp_path)
    assert list(found) == ["clean", "turned", "noise"]


def test_a_dimension_that_is_infinite_is_left_out_of_the_mean():
    arrays = {"lid": np.array([2, np.inf, 4]), "jacobian_norm": np.ones(3)}
    told = diagnosis.summary(pixels(), diagnosis.Diagnosis(Outcome(arrays, 1.0, 0.0)))
    assert (told["analysis"]["lid"], told["analysis"]["n"]) == (3, 3)
    arrays["lid"] = np.full(3, np.inf)
    told = diagnosis.summary(pixels(), diagnosis.Diagnosis(Outcome(arrays, 1.0, 0.0)))
    assert told["analysis"]["lid"] is None
    assert pages.measured(told)[0][1] == ("pixels", "3", "", "1.000")


@pytest.mark.parametrize(
    ("analyze", "words"),
    [
        ({"images": 5, "neighbors": 201}, r"analyze\.neighbors=201 asked of a bank of 200 rows"),
        ({"images": 5, "neighbors": 1}, r"analyze\.neighbors=1 .* use 2 to 200"),
        ({"images": 361}, r"analyze\.images=361: the test set has 360 images"),
        ({"images": -1}, r"analyze\.images=-1"),
        ({"credibility": 361}, r"analyze\.credibility=361: the test set has 360 images"),
        ({"steps": 0}, r"analyze\.steps=0"),
        ({"chunk": 0}, r"analyze\.chunk=0"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_work(tmp_path, monkeypatch, analyze, words):
    monkeypatch.setattr(recipes, "defend", refuse)
    with pytest.raises(ValueError, match=words) as error:
        jobs.attack(measuring(pixels(), **analyze), str(tmp_path / "run"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_only_what_is_asked_for_is_refused(dataset):
    diagnosis.check(measuring(pixels(), neighbors=9999), dataset)
    wide = dataset.test._replace(images=dataset.test.images[:, :4])
    diagnosis.check(pixels(), dataset._replace(test=wide))
    with pytest.raises(ValueError, match=r"must be square, and these are 4x8: data\.size"):
        diagnosis.check(measuring(pixels(), credibility=1), dataset._replace(test=wide))


def test_a_report_of_two_layers_tells_and_shows_it(tmp_path, monkeypatch):
    def cheap(key, model, x, y, **_):
        image = jnp.clip(x + 0.1, 0, 1)
        return Found(image, jnp.linspace(0.1, 1, len(x)), y >= 0, jnp.asarray(1), jnp.asarray(2))

    monkeypatch.setattr(attacks, "minimum_norm", cheap)
    monkeypatch.setattr(attacks, "boundary", cheap)
    recipe = measuring(pixels(("pixels", "pixels"), credibility=8), images=6)
    knobs = dataclasses.replace(
        recipe.attack, names=("minimum_norm", "boundary"), baseline_images=4, chunk=6
    )
    jobs.attack(dataclasses.replace(recipe, attack=knobs), str(tmp_path))
    told = json.loads((tmp_path / "report.json").read_text())
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    measured = [float(row["lid"]) for row in rows if row["lid"]]
    assert len(measured) == 6
    assert told["analysis"]["lid"] == pytest.approx(np.mean(measured))
    assert told["analysis"]["jacobian_norm"] == pytest.approx(1)
    kinds = [(kind["images"], kind["n"]) for kind in told["credibility"]]
    assert kinds == [
        ("clean", 8),
        ("minimum_norm_l2", 6),
        ("boundary_l2", 4),
        ("turned", 8),
        ("noise", 8),
    ]
    page = (tmp_path / "report.html").read_text()
    pictures = ["curve.png", "examples.png", "confusion.png", "norms_l2.png", "credibility.png"]
    assert re.findall(r'<img[^>]*alt="(.*?)"', page) == pictures
    for words in ("<th>Jacobian norm</th>", "<td>boundary_l2</td>"):
        assert words in page
    text = tables.details([told, told])
    name, mean = "pixels, 5-NN on pixels+pixels", f"{told['analysis']['lid']:.3f}"
    assert text.count(f"| {name} | pixels | 6 | {mean} | 1.000 |\n") == 2
    assert text.count("local dimension") == 1
    assert text.count(f"| {name} | noise | 8 | ") == 2
