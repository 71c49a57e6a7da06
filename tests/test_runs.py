"""Whole runs by the three scripts' functions: what they write, find again, and refuse beforehand."""

import csv
import dataclasses
import importlib
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stubs

from knn_jax import attacks, certificates, classifiers, data, defenses, neighbors, nets, training
from knn_jax.cli import run
from knn_jax.evaluation import attacked
from knn_jax.recipe import Evaluate, fit, papers

pytestmark = pytest.mark.usefixtures("trains", "quick")
KEYS = {
    *("name", "paper", "command", "dataset", "decider", "trained", "weights", "layer", "k", "n"),
    *("bank_rows", "clean_acc", "fingerprint", "test_digest", "lipschitz", "violations"),
    *("config", "hardware", "versions", "reported", "reported_attacks", "attacks", "certificates"),
}
ATTACK_KEYS = {
    *("name", "norm", "n", "success_rate", "mean_norm", "median_norm", "robust_acc", "gradients"),
    *("seconds", "compile_seconds", "baseline", "no_gradient", "exhausted"),
}
CERTIFICATE_KEYS = {"name", "norm", "n", "mean_radius", "certified_acc", "seconds"}


def read(folder):
    """report.json, which must be JSON to the letter (no NaN or Infinity)."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads((folder / "report.json").read_text(), parse_constant=refuse)


def table(folder):
    with open(folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def adversarial(folder):
    with np.load(folder / "adversarial.npz") as file:
        return dict(file)


def refuse(*_, **__):
    raise AssertionError("this was to be loaded, not computed")


@pytest.fixture
def idle(monkeypatch):
    """Training, predictions, attacks and certificates fail if they compute anything."""
    monkeypatch.setattr(importlib.import_module("knn_jax.training.train"), "_step", refuse)
    monkeypatch.setattr(classifiers.KNN, "votes", refuse)
    monkeypatch.setattr(attacks.MinimumNorm, "__call__", refuse)
    monkeypatch.setattr(certificates.Margin, "bound", refuse)
    monkeypatch.setattr(certificates.Voronoi, "bound", refuse)


@pytest.fixture(scope="module")
def small(recipe, tmp_path_factory):
    """A finished run on a trained network: recipe and folder. Copied, not changed."""
    recipe = recipe.but(
        evaluate=dataclasses.replace(recipe.evaluate, norms=("l2", "linf")),
        paper=papers.WANG.reports({"relu3": {"clean_acc": 0.5}}),
    )
    folder = tmp_path_factory.mktemp("small")
    run.attack(recipe, str(folder))
    return recipe, folder


@pytest.fixture
def again(small, tmp_path):
    """A copy of the finished run that may be changed."""
    recipe, folder = small
    return recipe, shutil.copytree(folder, tmp_path / "copy")


def test_the_report_has_what_it_must(small):
    recipe, folder = small
    report = read(folder)
    assert set(report) == KEYS
    assert [attack["norm"] for attack in report["attacks"]] == ["l2", "linf"]
    for attack in report["attacks"]:
        assert set(attack) >= ATTACK_KEYS
        assert attack["gradients"] == 8  # 2 starts of 4 steps
        within = recipe.evaluate.within(attack["norm"])
        assert list(attack["robust_acc"]) == [str(r) for r in within]
    assert [one["name"] for one in report["certificates"]] == ["margin", "voronoi"]
    for certificate in report["certificates"]:
        assert set(certificate) >= CERTIFICATE_KEYS
        assert list(certificate["certified_acc"]) == [str(r) for r in recipe.evaluate.radii]
    assert (report["n"], report["k"], report["bank_rows"]) == (360, 5, 200)
    assert {entry["n"] for entry in [*report["attacks"], *report["certificates"]]} == {6}
    told = report["dataset"], report["decider"], report["layer"], report["trained"]
    assert told == ("digits", "5-NN on relu3", "relu3", "1 epochs")
    assert report["reported"] == {"clean_acc": 0.5}
    assert report["paper"]["title"] == papers.WANG.title
    assert report["config"] == recipe.told()
    assert report["versions"]["jax"] == jax.__version__
    assert report["violations"] == 0


def test_the_results_are_those_of_the_report(small):
    _, folder = small
    report, rows, images = read(folder), table(folder), adversarial(folder)
    test = data.Digits().load().test
    assert [int(row["label"]) for row in rows] == test.labels.tolist()
    right = [row["clean"] == row["label"] for row in rows]
    assert report["clean_acc"] == pytest.approx(np.mean(right))
    rows, right = rows[:6], right[:6]
    for attack, measure in zip(
        report["attacks"], (np.linalg.norm, lambda d: abs(d).max()), strict=True
    ):
        norm = attack["norm"]
        found = images[f"minimum_norm_{norm}"]
        assert found.shape == (6, 8, 8, 1)
        assert found.min() >= 0
        assert found.max() <= 1
        lengths = [float(row[f"minimum_norm_{norm}_norm"]) for row in rows]
        assert np.isfinite(lengths).any()
        for i, length in enumerate(lengths):
            if np.isfinite(length):
                difference = (found[i] - test.images[i]).ravel()
                assert length == pytest.approx(measure(difference), rel=1e-5)
                assert length == 0 or rows[i][f"minimum_norm_{norm}_adversarial"] != rows[i]["label"]
        lengths = [v for v, ok in zip(lengths, right, strict=True) if ok and np.isfinite(v) and v > 0]
        assert attack["mean_norm"] == pytest.approx(np.mean(lengths))


def test_the_page_holds_everything_itself(small):
    _, folder = small
    page = (folder / "report.html").read_text()
    assert re.findall(r'<img[^>]*alt="(.*?)"', page) == ["curve.png", "examples.png", "confusion.png"]
    sources = re.findall(r'(?:src)\s*=\s*"(.{0,22})', page)
    assert sources == ["data:image/png;base64,"] * 3
    assert set(re.findall(r'href="(.*?)"', page)) <= {papers.WANG.link}
    assert "<script" not in page
    for name in ("curve.png", "examples.png", "confusion.png"):
        assert (folder / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_nothing_half_written_stays(small):
    _, folder = small
    assert not list(folder.rglob(".*.scratch"))


def test_a_second_run_loads_what_the_first_computed(again, idle, capsys):
    recipe, folder = again
    before, images = read(folder), adversarial(folder)
    run.attack(recipe, str(folder))
    assert read(folder) == before  # the seconds too: they are those of the computation
    assert all(np.array_equal(images[k], v) for k, v in adversarial(folder).items())
    printed = capsys.readouterr().out.replace("\n", "")
    for name in ("report.html", "report.json", "results.csv", "adversarial.npz"):
        assert str(folder / name) in printed


def test_certifying_keeps_the_attacks_made_before(again, idle):
    recipe, folder = again
    before = read(folder)
    run.certify(recipe, str(folder))
    assert read(folder) == before


def test_training_before_attacking_is_the_same(small, tmp_path, monkeypatch, capsys):
    recipe, folder = small
    run.train(recipe, str(tmp_path))
    assert str(tmp_path / "checkpoints") in capsys.readouterr().out
    assert not (tmp_path / "report.json").exists()
    dataset = recipe.data.load()
    one, other = (run.made(recipe, dataset, place) for place in (folder, tmp_path))
    assert one.fingerprint == other.fingerprint == read(folder)["fingerprint"]


def test_the_network_alone_is_attacked_in_the_same_workdir(again):
    recipe, folder = again
    alone = recipe.but(
        classifier=fit.Network(),
        attacks={"shift": stubs.Shift(), "lower": stubs.Lower()},
        certificates={},
        evaluate=dataclasses.replace(recipe.evaluate, norms=("l2",), sources=("model", "network")),
    )
    run.attack(alone, str(folder))
    report = read(folder)
    told = report["decider"], report["layer"], report["k"], report["certificates"]
    assert told == ("the network alone", "output", 1, [])
    names = [attack["name"] for attack in report["attacks"]]
    assert names == ["shift", "shift on network", "lower", "least of all"]
    assert set(adversarial(folder)) == {"shift_l2", "shift on network_l2", "lower_l2"}
    system = run.made(alone, recipe.data.load(), folder)
    x, y = system.first_images(6)
    logits = np.asarray(system.model.votes(x))
    assert [int(row["clean"]) for row in table(folder)[:6]] == logits.argmax(1).tolist()
    fooled = ~np.asarray(system.model.right(jnp.asarray(adversarial(folder)["lower_l2"]), y))
    changed = np.array([int(row["lower_l2_adversarial"]) for row in table(folder)[:6]])
    np.testing.assert_array_equal(changed != np.asarray(y), fooled)


# Pixels, for which nothing is trained.


@pytest.fixture(scope="module")
def pixels():
    """1-NN on them."""
    return stubs.recipe(
        name="pixels",
        classifier=fit.KNN(layers=("pixels",), k=1, rows=200),
        attacks={"minimum_norm": attacks.MinimumNorm(steps=4, starts=2)},
        certificates={
            "margin": certificates.Margin(),
            "voronoi": certificates.Voronoi(other=64),
            "exact": certificates.Exact(),
        },
        evaluate=Evaluate(images=6, chunk=4, certified_chunk=6),
    )


def test_pixels_have_constant_1_and_their_radii_never_exceed_an_attack(pixels, tmp_path):
    run.attack(pixels, str(tmp_path))
    report = read(tmp_path)
    assert report["lipschitz"] == 1
    assert report["violations"] == 0
    assert report["attacks"][0]["success_rate"] == 1
    assert not (tmp_path / "checkpoints").exists()
    for row in table(tmp_path)[:6]:
        norm = float(row["minimum_norm_l2_norm"])
        margin, voronoi, exact = (float(row[f"{k}_radius"]) for k in ("margin", "voronoi", "exact"))
        assert 0 <= margin <= voronoi * (1 + 1e-5)
        assert voronoi <= exact <= norm
        assert voronoi > 0 or row["clean"] != row["label"]


def test_images_drawn_by_a_seed_are_the_same_for_every_recipe(pixels, tmp_path):
    """Each line tells of the image of its index, whatever the order and however many are attacked."""
    recipe = pixels.but(attacks={"shift": stubs.Shift()}, certificates={})

    def drawn(name, **knobs):
        asked = dataclasses.replace(recipe.evaluate, **knobs)
        run.attack(recipe.but(evaluate=asked), str(tmp_path / name))
        return read(tmp_path / name), table(tmp_path / name)

    own, ordered = drawn("own")
    first, rows = drawn("one", image_seed=1)
    more, others = drawn("one", image_seed=1, images=9)
    index = [int(row["index"]) for row in rows]
    assert sorted(index) == list(range(360)) != index
    for row in rows:
        there = ordered[int(row["index"])]
        assert (row["label"], row["clean"]) == (there["label"], there["clean"])
    assert [row["shift_l2_norm"] != "" for row in rows] == [True] * 6 + [False] * 354
    assert [int(row["index"]) for row in others] == index
    assert first["clean_acc"] == own["clean_acc"]
    assert first["test_digest"] == more["test_digest"] != own["test_digest"]
    assert [report["attacks"][0]["n"] for report in (first, more)] == [6, 9]


def test_where_there_is_nothing_to_train_training_says_so(pixels, tmp_path, capsys):
    run.train(pixels, str(tmp_path))
    assert "Untrained" in capsys.readouterr().out


def test_certifying_alone_attacks_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(stubs.Shift, "search", refuse)
    recipe = stubs.recipe(evaluate=Evaluate(images=4, certified_images=9, certified_chunk=120))
    run.certify(recipe, str(tmp_path))
    report = read(tmp_path)
    assert report["attacks"] == []
    assert [one["n"] for one in report["certificates"]] == [9]
    assert [row["tenth_radius"] != "" for row in table(tmp_path)] == [True] * 9 + [False] * 351
    assert not (tmp_path / "adversarial.npz").exists()
    assert not (tmp_path / "examples.png").exists()


def test_radii_above_an_attack_are_counted(tmp_path):
    """A certificate that promises too much."""
    recipe = stubs.recipe(
        attacks={"shift": stubs.Shift()},
        certificates={"tenth": stubs.Tenth(90.0)},
        evaluate=Evaluate(images=4, certified_chunk=120),
    )
    run.attack(recipe, str(tmp_path))
    right = [row["clean"] == row["label"] for row in table(tmp_path)[:4]]
    assert read(tmp_path)["violations"] == sum(right) > 0


@pytest.mark.parametrize("job", [run.attack, run.certify])
def test_a_bad_recipe_changes_nothing_in_a_workdir_and_makes_none(again, tmp_path, monkeypatch, job):
    recipe, folder = again
    monkeypatch.setattr(defenses.CrossEntropy, "fit", refuse)
    bad = recipe.but(classifier=fit.KNN(layers=("relu9",), k=1))
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for place in (folder, tmp_path / "new"):
        with pytest.raises(ValueError, match="relu9"):
            job(bad, str(place))
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    assert not (tmp_path / "new").exists()


def test_training_is_not_refused_for_what_only_attacks_have(pixels, tmp_path):
    """More images than the test set has, and a radius that is missing."""
    asked = Evaluate(images=10_000, baseline_images=9000, radii=(), norms=("linf",), trials=5)
    recipe = pixels.but(evaluate=asked, attacks={"guided": attacks.Guided(), "pgd": attacks.PGD()})
    run.train(recipe, str(tmp_path))
    with pytest.raises(ValueError, match="guided"):
        run.attack(recipe, str(tmp_path))


@pytest.mark.parametrize("job", [run.train, run.attack, run.certify])
def test_other_data_of_the_same_name_are_no_job(pixels, tmp_path, job):
    """The labels are shifted; without them the network would be taken for trained."""
    labels = np.arange(400) % 10
    images = np.random.default_rng(0).random((400, 2, 2), np.float32)
    recipe = pixels.but(data=data.NPZ(str(tmp_path / "set.npz")))
    np.savez(tmp_path / "set.npz", images=images, labels=labels)
    run.train(recipe, str(tmp_path / "run"))
    np.savez(tmp_path / "set.npz", images=images, labels=(labels + 3) % 10)
    with pytest.raises(ValueError, match="have changed") as error:
        job(recipe, str(tmp_path / "run"))
    assert str(tmp_path / "run") in str(error.value)


def test_a_job_holds_its_workdir_to_its_end(pixels, tmp_path, monkeypatch):
    def fitted(self, dataset, optim, folder):
        with pytest.raises(ValueError, match="in use by"):
            run.certify(pixels, str(folder))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(defenses.Untrained, "fit", fitted)
        with pytest.raises(KeyboardInterrupt):
            run.train(pixels, str(tmp_path))
    run.train(pixels, str(tmp_path))


def test_nothing_to_do_is_said(tmp_path):
    nothing = stubs.recipe(attacks={}, certificates={})
    with pytest.raises(ValueError, match="neither attacks nor certificates"):
        run.attack(nothing, str(tmp_path / "run"))
    two = nothing.but(classifier=fit.KNN(layers=("pixels", "others"), k=3))
    with pytest.raises(ValueError, match="'pixels', 'others'"):
        run.certify(two, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_no_substitute_is_trained_that_no_attack_follows(tmp_path, monkeypatch):
    """Of a recipe that is not checked, as a program's own."""
    monkeypatch.setattr(defenses.CrossEntropy, "fit", refuse)
    asked = Evaluate(images=4, sources=("substitute",))
    recipe = stubs.recipe(attacks={"baseline": stubs.Baseline()}, evaluate=asked)
    assert [one.source for one in attacked.runs(recipe)] == ["model"]
    assert set(run.made(recipe, data.Digits().load(), tmp_path).sources) == {"model"}


def test_another_classifier_is_another_fingerprint(tmp_path):
    """Where its arrays are the same: how it decides is what differs."""
    dataset, recipe = data.Digits().load(), stubs.recipe()

    def fingerprint(**changes):
        decides = dataclasses.replace(recipe.classifier, **changes)
        return run.made(recipe.but(classifier=decides), dataset, tmp_path).fingerprint

    prints = [
        fingerprint(),
        fingerprint(k=5),
        fingerprint(rows=150),
        fingerprint(metric=neighbors.Subspaces(2)),
    ]
    assert len(set(prints)) == 4
    assert fingerprint() == prints[0]


def test_a_certified_classifier_has_full_precision(tmp_path):
    dataset, net = data.Digits().load(), nets.digits_convnet()
    defense = defenses.Untrained(net)
    trained = defense.fit(dataset, training.Optim(), tmp_path)
    x = jnp.asarray(dataset.test.floats(0, 1))
    for metric, precise in ((neighbors.Euclidean(), True), (neighbors.Cosine(), False)):
        decides = fit.KNN(layers=("relu3",), k=1, metric=metric, rows=50)
        model = decides.fit(defense, trained, dataset)
        assert ("HIGHEST" in str(jax.make_jaxpr(model.features)(x))) is precise
