"""The jobs from end to end: what they write, what they resume, and what they refuse beforehand."""

import csv
import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knn_jax import (
    attacks,
    certificates,
    chunks,
    classifiers,
    config,
    data,
    evaluation,
    jobs,
    kinds,
    nets,
    pages,
    recipes,
    training,
)
from knn_jax.attacks import Found

pytestmark = pytest.mark.usefixtures("trains", "quick")
KEYS = {
    *("name", "dataset", "architecture", "layer", "metric", "k", "bank_rows", "n", "clean_acc"),
    *("config", "hardware", "versions", "reported", "attacks", "certificates"),
}
ATTACK_KEYS = {
    *("name", "norm", "success_rate", "mean_norm", "median_norm", "robust_acc", "gradients"),
    *("seconds", "compile_seconds"),
}
CERTIFICATE_KEYS = {"name", "mean_radius", "certified_acc", "seconds"}
PIXELS = config.Config(
    name="pixels",
    net=config.Net(name="pixels"),
    classifier=config.Classifier(layers=("pixels",), k=1, bank_rows=200),
    attack=config.Attack(images=6, steps=4, starts=2, chunk=4),
    certify=config.Certify(other=64, chunk=6, exact=True),
)


def altered(recipe, **sections):
    """The recipe with some knobs changed: `altered(recipe, attack={"steps": 9})`."""
    changes = {
        name: dataclasses.replace(getattr(recipe, name), **knobs) for name, knobs in sections.items()
    }
    return dataclasses.replace(recipe, **changes)


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


def timeless(report):
    """The report without what differs from run to run."""
    keep = ("seconds", "compile_seconds")
    entries = [*report["attacks"], *report["certificates"]]
    return report["clean_acc"], [{k: v for k, v in e.items() if k not in keep} for e in entries]


def refuse(*_, **__):
    raise AssertionError("this was to be loaded, not computed")


@pytest.fixture
def idle(monkeypatch):
    """Training, predictions, attacks and certificates fail if they compute anything."""
    monkeypatch.setattr(training, "_step", refuse)
    monkeypatch.setattr(classifiers.KNN, "predict", refuse)
    monkeypatch.setattr(attacks, "minimum_norm", refuse)
    monkeypatch.setattr(certificates, "margin", refuse)
    monkeypatch.setattr(certificates, "voronoi", refuse)
    monkeypatch.setattr(certificates, "exact", refuse)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A finished run on the small trunk: recipe and folder. Copied, not changed."""
    recipe = altered(
        dataclasses.replace(PIXELS, name="small", reported={"relu3": {"clean_acc": 0.5}}),
        net={"name": "digits"},
        optim={"epochs": 1},
        classifier={"layers": ("relu3",), "k": 5},
        attack={"norms": ("l2", "linf")},
        certify={"exact": False},
    )
    folder = tmp_path_factory.mktemp("small")
    jobs.attack(recipe, str(folder))
    return recipe, folder


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """A finished run of 1-NN on pixels: recipe and folder."""
    folder = tmp_path_factory.mktemp("pixels")
    jobs.attack(PIXELS, str(folder))
    return PIXELS, folder


@pytest.fixture
def again(small, tmp_path):
    """A copy of the finished run that may be changed."""
    recipe, folder = small
    return recipe, shutil.copytree(folder, tmp_path / "copy")


def test_the_report_has_what_it_must(small):
    recipe, folder = small
    report = read(folder)
    assert set(report) >= KEYS
    assert [a["norm"] for a in report["attacks"]] == ["l2", "linf"]
    assert [c["name"] for c in report["certificates"]] == ["margin", "voronoi"]
    for attack in report["attacks"]:
        assert set(attack) >= ATTACK_KEYS
        assert attack["gradients"] == 8  # 2 starts of 4 steps
    assert list(report["attacks"][0]["robust_acc"]) == [str(r) for r in recipe.attack.radii]
    assert list(report["attacks"][1]["robust_acc"]) == [str(r) for r in recipe.attack.radii_linf]
    for certificate in report["certificates"]:
        assert set(certificate) >= CERTIFICATE_KEYS
        assert list(certificate["certified_acc"]) == [str(r) for r in recipe.attack.radii]
    assert (report["n"], report["k"], report["bank_rows"]) == (360, 5, 200)
    assert {entry["n"] for entry in [*report["attacks"], *report["certificates"]]} == {6}
    assert (report["dataset"], report["architecture"], report["layer"]) == ("digits", "digits", "relu3")
    assert report["reported"] == {"clean_acc": 0.5}
    assert report["config"]["attack"] == recipe.asdict()["attack"]
    assert report["versions"]["jax"] == jax.__version__
    assert report["violations"] == 0


def test_the_results_are_those_of_the_report(small):
    _, folder = small
    report, rows, images = read(folder), table(folder), adversarial(folder)
    test = data.load(config.Data()).test
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
    sources = re.findall(r'(?:src|href)\s*=\s*"(.{0,22})', page)
    assert sources == ["data:image/png;base64,"] * 3
    assert "http" not in page
    assert "<script" not in page
    assert "Reported by the paper" in page
    for name in ("curve.png", "examples.png", "confusion.png"):
        assert (folder / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_nothing_half_written_stays(small):
    _, folder = small
    assert not list(folder.rglob(".*.scratch"))


def test_a_second_run_loads_what_the_first_computed(again, idle, capsys):
    recipe, folder = again
    before, images = read(folder), adversarial(folder)
    jobs.attack(recipe, str(folder))
    assert read(folder) == before  # the seconds too: they are those of the computation
    assert all(np.array_equal(images[k], v) for k, v in adversarial(folder).items())
    printed = capsys.readouterr().out.replace("\n", "")
    for name in ("report.html", "report.json", "results.csv", "adversarial.npz"):
        assert str(folder / name) in printed


def test_a_missing_chunk_is_computed_to_the_same(again):
    recipe, folder = again
    before, images = read(folder), adversarial(folder)
    (lost,) = folder.glob("parts/minimum_norm_l2_*/000004_2.npz")
    kept = {f: f.stat().st_mtime_ns for f in folder.glob("parts/**/*.npz") if f != lost}
    lost.unlink()
    jobs.attack(recipe, str(folder))
    assert timeless(read(folder)) == timeless(before)
    assert all(np.array_equal(images[k], v) for k, v in adversarial(folder).items())
    assert {f: f.stat().st_mtime_ns for f in kept} == kept


def test_certifying_keeps_the_attacks_made_before(again, idle):
    recipe, folder = again
    before = read(folder)
    jobs.certify(recipe, str(folder))
    assert read(folder) == before


def test_where_there_is_nothing_to_train_training_says_so(tmp_path, capsys):
    jobs.train(PIXELS, str(tmp_path))
    assert "nothing to train: net.name='pixels'" in capsys.readouterr().out


def test_training_before_attacking_is_the_same(small, tmp_path, monkeypatch, capsys):
    recipe, folder = small
    jobs.train(recipe, str(tmp_path))
    assert f"trained: {tmp_path / 'checkpoints'}" in capsys.readouterr().out
    assert not (tmp_path / "report.json").exists()
    monkeypatch.setattr(training, "_step", refuse)
    dataset = data.load(recipe.data)
    one, other = (recipes.defend(recipe, dataset, place) for place in (folder, tmp_path))
    assert one.fingerprint == other.fingerprint == read(folder)["fingerprint"]


def test_certifying_alone_attacks_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(attacks, "minimum_norm", refuse)
    jobs.certify(altered(PIXELS, certify={"images": 9}), str(tmp_path))
    report = read(tmp_path)
    assert report["attacks"] == []
    assert [c["n"] for c in report["certificates"]] == [9, 9, 9]
    assert [row["exact_radius"] != "" for row in table(tmp_path)] == [True] * 9 + [False] * 351
    assert not (tmp_path / "adversarial.npz").exists()
    assert not (tmp_path / "examples.png").exists()


def test_pixels_have_constant_1_and_their_radii_never_exceed_an_attack(pixels):
    _, folder = pixels
    report = read(folder)
    assert report["lipschitz"] == 1
    assert report["violations"] == 0
    assert report["attacks"][0]["success_rate"] == 1
    assert not (folder / "checkpoints").exists()
    for row in table(folder)[:6]:
        norm = float(row["minimum_norm_l2_norm"])
        margin, voronoi, exact = (float(row[f"{k}_radius"]) for k in ("margin", "voronoi", "exact"))
        assert 0 <= margin <= voronoi * (1 + 1e-5)
        assert voronoi <= exact <= norm
        assert voronoi > 0 or row["clean"] != row["label"]


# The chunks by themselves, with an attack that costs nothing.


def cheap(key, model, x, y, *, norm, steps, starts):
    """A Found that tells whatever it was given: key, image and place."""
    draw = jax.vmap(lambda place: jax.random.uniform(jax.random.fold_in(key, place)))(
        jnp.arange(len(x))
    )
    image = jnp.clip(x + 0.5 * draw[:, None, None, None], 0.0, 1.0)
    length = jnp.sqrt(jnp.sum(jnp.square(image - x), (1, 2, 3)))
    return Found(image, length, y >= 0, jnp.asarray(steps), jnp.asarray(starts))


@pytest.fixture(scope="module")
def defended(tmp_path_factory):
    dataset = data.load(PIXELS.data)
    return recipes.defend(PIXELS, dataset, tmp_path_factory.mktemp("none"))


@pytest.fixture
def asked(monkeypatch):
    """The first images of the chunks that are computed, as they are asked for."""
    monkeypatch.setattr(attacks, "minimum_norm", cheap)
    firsts, floats = [], data.Split.floats

    def note(split, first, last):
        firsts.append(first)
        return floats(split, first, last)

    monkeypatch.setattr(data.Split, "floats", note)
    return firsts


RUN = kinds.Run("minimum_norm", "l2")


def attack(folder, defended, **knobs):
    recipe = altered(PIXELS, attack={"images": 10, **knobs})
    return evaluation.attack(recipe, defended, RUN, folder)


def equal(one, other, count=None):
    """Outcomes with the same results for the first `count` images."""
    assert set(one.arrays) == set(other.arrays)
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array[:count], other.arrays[name][:count], err_msg=name)


def test_a_killed_run_goes_on_where_it_was(tmp_path, defended, asked, monkeypatch):
    whole = attack(tmp_path / "whole", defended)
    assert asked == [0, 4, 8]
    save = chunks.np.savez

    def killed(stream, **arrays):
        if len(arrays["norm"]) < 4:  # the last chunk, of 2
            stream.write(b"half a file")
            raise KeyboardInterrupt
        save(stream, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(chunks.np, "savez", killed)
        with pytest.raises(KeyboardInterrupt):
            attack(tmp_path / "cut", defended)
    asked.clear()
    resumed = attack(tmp_path / "cut", defended)
    assert asked == [8]
    equal(resumed, whole)


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("harm", [lambda _: b"", lambda content: content[:-9], flipped])
def test_a_damaged_chunk_is_told_and_computed_anew(tmp_path, defended, asked, capsys, harm):
    whole = attack(tmp_path, defended)
    (file,) = tmp_path.glob("parts/*/000004_4.npz")
    content = file.read_bytes()
    file.write_bytes(harm(content))
    asked.clear()
    recipe = altered(PIXELS, attack={"images": 10})
    assert evaluation.attack(recipe, defended, RUN, tmp_path, run=False) is None
    assert str(file) in capsys.readouterr().err.replace("\n", "")
    equal(attack(tmp_path, defended), whole)
    assert asked == [4]
    equal(attack(tmp_path, defended), whole)
    assert asked == [4]


def test_a_chunk_of_another_result_or_with_other_arrays_is_computed_anew(tmp_path, defended, asked):
    whole, other = attack(tmp_path, defended), attack(tmp_path, defended, steps=5)
    assert (whole.arrays["gradients"] != other.arrays["gradients"]).all()
    one, two = tmp_path.glob("parts/*/000004_4.npz")
    mine, foreign = one.read_bytes(), two.read_bytes()
    with np.load(one) as found:
        arrays = dict(found)
    del arrays["success"]
    for content in (foreign, None, mine):
        if content is None:
            np.savez(one, **arrays)
        else:
            one.write_bytes(content)
        asked.clear()
        for outcome, steps in ((whole, 4), (other, 5)):
            equal(attack(tmp_path, defended, steps=steps), outcome)
        assert asked == ([] if content == mine else [4])


@pytest.mark.parametrize("devices", [1, 3])
def test_chunks_are_the_same_on_any_number_of_devices(tmp_path, defended, asked, monkeypatch, devices):
    whole = attack(tmp_path / "four", defended)
    first = jax.local_devices()[:devices]
    monkeypatch.setattr(chunks.jax, "local_devices", lambda: first)
    equal(attack(tmp_path / "fewer", defended), whole)
    assert asked == [0, 4, 8] * 2


def test_what_another_version_computed_is_not_found(tmp_path, defended, asked, monkeypatch):
    attack(tmp_path, defended)
    monkeypatch.setattr(chunks, "_version", lambda: "another")
    attack(tmp_path, defended)
    assert asked == [0, 4, 8] * 2


def test_another_classifier_finds_no_chunk_of_the_first(tmp_path):
    """Where its arrays are the same: how it decides is what differs."""
    dataset = data.load(PIXELS.data)
    halves = altered(PIXELS, classifier={"metric": "subspaces"}, net={"subspaces": 2})
    few = altered(PIXELS, classifier={"bank_rows": len(dataset.train.labels)})
    prints = [recipes.defend(r, dataset, tmp_path).fingerprint for r in (PIXELS, halves, few, PIXELS)]
    assert len(set(prints)) == 3
    assert prints[0] == prints[3]


def test_more_images_keep_the_full_chunks(tmp_path, defended, asked):
    few = attack(tmp_path, defended, images=8)
    asked.clear()
    more = attack(tmp_path, defended, images=11)
    assert asked == [8]
    equal(few, more, 8)
    asked.clear()
    equal(attack(tmp_path, defended, images=8), few)
    assert asked == []


def test_a_partial_chunk_is_completed_to_what_a_full_one_is(tmp_path, defended, asked):
    attack(tmp_path / "grown", defended, images=6)
    grown = attack(tmp_path / "grown", defended, images=8)
    equal(grown, attack(tmp_path / "at once", defended, images=8))


def test_another_question_computes_anew(tmp_path, defended, asked):
    for change in ({}, {"steps": 5}, {"starts": 3}, {"seed": 1}):
        asked.clear()
        attack(tmp_path, defended, **change)
        assert asked == [0, 4, 8], change
    asked.clear()
    attack(tmp_path, defended)  # what was found before is not lost
    assert asked == []


def test_another_classifier_computes_anew(tmp_path, defended, asked):
    attack(tmp_path, defended)
    for change in ({"k": 3}, {"bank_rows": 150}):
        recipe = altered(PIXELS, classifier=change)
        other = recipes.defend(recipe, defended.dataset, tmp_path)
        asked.clear()
        attack(tmp_path, other)
        assert asked == [0, 4, 8], change


def test_without_run_only_what_is_complete_is_read(tmp_path, defended, asked):
    def found(images):
        recipe = altered(PIXELS, attack={"images": images})
        return evaluation.attack(recipe, defended, kinds.Run("minimum_norm", "l2"), tmp_path, run=False)

    assert found(10) is None
    whole = attack(tmp_path, defended)
    asked.clear()
    equal(found(10), whole)
    assert found(12) is None
    assert asked == []


def test_each_attack_is_run_in_the_norms_that_it_has(tmp_path, defended, monkeypatch):
    for factor, name in enumerate(("minimum_norm", "guided", "hinged", "boundary"), 1):

        def found(key, model, x, y, *, norm="l2", steps=1, starts=1, factor=factor, **_):
            result = cheap(key, model, x, y, norm=norm, steps=steps, starts=starts)
            return result._replace(norm=factor * result.norm)

        monkeypatch.setattr(attacks, name, found)
    names = ("minimum_norm", "guided", "hinged", "boundary")
    recipe = altered(
        PIXELS, attack={"images": 10, "baseline_images": 7, "names": names, "norms": ("linf", "l2")}
    )
    pairs = kinds.runs(recipe.attack)
    assert [pair[:2] for pair in pairs] == [
        ("minimum_norm", "linf"),
        ("minimum_norm", "l2"),
        ("guided", "l2"),
        ("hinged", "l2"),
        ("boundary", "l2"),
    ]
    lengths = [evaluation.attack(recipe, defended, pair, tmp_path).arrays["norm"] for pair in pairs]
    assert [len(length) for length in lengths] == [10, 10, 7, 7, 7]
    for factor, (length, base) in enumerate(zip(lengths[1:], [lengths[1]] * 4, strict=True), 1):
        np.testing.assert_allclose(length, factor * base[: len(length)], rtol=1e-6)


def test_the_network_alone_is_attacked_and_neighbours_by_its_gradients(again, monkeypatch):
    """Its own output is attacked in the same workdir; and 5-NN by the gradients of both."""
    recipe, folder = again
    own = {"names": ("minimum_norm", "pgd"), "norms": ("linf",), "radii_linf": (0.1,)}
    alone = altered(recipe, classifier={"name": "network"}, attack=own, ball={"steps": 2})
    jobs.attack(alone, str(folder))
    report = read(folder)
    assert (report["layer"], report["k"], report["bank_rows"]) == ("output", 1, 0)
    assert report["certificates"] == []
    assert pages.decider(report) == "the network alone"
    found = {a["name"]: a for a in report["attacks"]}
    assert found["minimum_norm"]["success_rate"] == 1
    dataset = data.load(recipe.data)
    x, y = jnp.asarray(dataset.test.floats(0, 6)), dataset.test.labels[:6]
    defended = recipes.defend(alone, dataset, folder)
    logits = np.asarray(defended.model.votes(x))
    right = logits.argmax(1) == y
    np.testing.assert_array_equal([int(row["clean"]) for row in table(folder)[:6]], logits.argmax(1))
    images = adversarial(folder)["minimum_norm_linf"]
    fooled = np.asarray(defended.model.margin(jnp.asarray(images), jnp.asarray(y))) <= 0
    assert fooled[right].all()
    changed = np.array([int(row["minimum_norm_linf_adversarial"]) for row in table(folder)[:6]])
    assert (changed != y)[fooled].all()
    both = altered(
        recipe, attack=own | {"names": ("pgd",), "sources": ("model", "network")}, ball={"steps": 2}
    )
    followed = {}

    def pgd(key, model, x, y, *, source, **knobs):
        followed[type(source).__name__] = type(model).__name__
        return cheap_pgd(key, model, x, y, source=source, **knobs)

    cheap_pgd = attacks.pgd
    monkeypatch.setattr(attacks, "pgd", pgd)
    jobs.attack(both, str(folder))
    assert followed == {"NoneType": "KNN", "Network": "KNN"}
    names = [a["name"] for a in read(folder)["attacks"]]
    assert names == ["pgd", "pgd on network", "least of all"]
    assert set(adversarial(folder)) == {"pgd_linf", "pgd on network_linf"}


@pytest.mark.parametrize("name", ["fgsm", "ifgsm", "deepfool", "lbfgs"])
def test_an_attack_that_follows_another_is_given_it_and_kept_apart(pixels, tmp_path, monkeypatch, name):
    recipe, folder = pixels
    recipe = altered(
        recipe,
        attack={"names": (name, "boundary"), "norms": ("linf", "l2"), "sources": ("model", "network")},
    )
    norms = ("l2",) if name == "lbfgs" else ("linf", "l2")
    runs = kinds.runs(recipe.attack)
    labels = [(name, n, s) for n in norms for s in ("model", "network")]
    assert runs == [*labels, ("boundary", "l2", "model")]
    defended = recipes.defend(
        altered(recipe, attack={"sources": ("model",)}), data.load(recipe.data), folder
    )
    other = classifiers.network(_one_hot, jnp.zeros((1, 8, 8, 1)))
    defended = defended._replace(sources={"model": None, "network": other})
    seen = []

    def found(key, model, x, y, *, norm="l2", source=None):
        seen.append((norm, source and type(source).__name__, len(model.labels)))
        return Found(x, jnp.ones(len(x)), jnp.ones(len(x), bool), jnp.int32(1), jnp.int32(1))

    monkeypatch.setattr(attacks, name, found)
    for run in runs[:-1]:
        assert evaluation.attack(recipe, defended, run, tmp_path).arrays["success"].all()
    assert seen == [(n, s, 200) for n in norms for s in (None, "Network")]
    assert evaluation.attack(recipe, defended, runs[-1], tmp_path, run=False) is None


def _one_hot(x):
    return x[:, 0, :, 0]


# What is refused.

BAD = [
    ({"classifier": {"k": 201}}, r"k=201 neighbours asked of a bank of 200 rows"),
    ({"classifier": {"k": 0}}, r"k=0 "),
    ({"classifier": {"layers": ("relu4",)}}, r"no layer 'relu4'.*(?=.*relu1)(?=.*relu2)(?=.*fc)"),
    ({"classifier": {"layers": ()}}, r"classifier\.layers"),
    ({"classifier": {"bank_rows": 2, "k": 1}}, r"no row of class"),
    ({"attack": {"images": 361}}, r"attack\.images=361: .* 360 images"),
    ({"attack": {"images": 0}}, r"attack\.images=0"),
    ({"certify": {"images": 361}}, r"certify\.images=361: .* 360 images"),
    ({"attack": {"baseline_images": 361}}, r"attack\.baseline_images=361: .* 360 images"),
    ({"attack": {"steps": 0}}, r"attack\.steps=0"),
    ({"attack": {"guided_steps": 0}}, r"attack\.guided_steps=0"),
    ({"attack": {"starts": 0}}, r"attack\.starts=0"),
    ({"attack": {"chunk": 0}}, r"attack\.chunk=0"),
    ({"certify": {"own": 0}}, r"certify\.own=0"),
    (
        {"certify": {"exact": True}, "classifier": {"k": 4}},
        r"certify\.exact is for an odd classifier\.k, and it is 4: use 3 or 5, or leave it out",
    ),
    (
        {"certify": {"exact": True}, "classifier": {"layers": ("relu1", "relu2")}},
        r"certificates cover neighbours in one layer by l2, .*'relu1', 'relu2'",
    ),
    ({"attack": {"guided_guides": 0}}, r"attack\.guided_guides=0"),
    ({"attack": {"guided_constant": 0.0}}, r"attack\.guided_constant=0\.0: it must be above 0"),
    ({"attack": {"guided_rate": float("nan")}}, r"attack\.guided_rate=nan"),
]
NEW = [  # what a workdir of another network, or certify.py, would refuse anyhow
    ({"classifier": {"name": "network"}, "attack": {"names": ("ask",)}}, r"attack\.names: ask is for"),
    ({"classifier": {"name": "network"}, "analyze": {"images": 1}}, r"analyze is for"),
    ({"net": {"weights": "nowhere.npz"}}, r"no file nowhere\.npz"),
    (
        {"defense": {"name": "rotation"}, "classifier": {"name": "network"}},
        r"'rotation' on net\.name='digits' has no output that classifies: use classifier\.name='knn'",
    ),
    ({"net": {"name": "pixels"}, "attack": {"sources": ("network",)}}, r"'pixels' has no output"),
    ({"optim": {"peak_lr": 0.0}}, r"optim\.peak_lr=0"),
    ({"defense": {"eps": 4.0}}, r"defense\.eps=4\.0 without an adversary"),
    ({"net": {"sweeps": 5}}, r"net\.sweeps=5 is for lipschitz, and net\.name='digits' is none"),
    ({"net": {"name": "digits_lipschitz", "sweeps": -1}}, r"net\.sweeps=-1"),
    ({"data": {"candidates": "test"}}, r"data\.candidates='test'"),
    ({"optim": {"batch_size": 0}}, r"batch_size=0"),
    ({"optim": {"augment": "crop"}, "defense": {"name": "rotation"}}, r"optim\.augment mirrors images"),
    ({"data": {"name": "minst"}}, r"'minst'.*'mnist'"),
]


@pytest.mark.parametrize(("change", "words"), BAD)
@pytest.mark.parametrize("job", [jobs.attack, jobs.certify, jobs.train])
def test_a_bad_recipe_changes_nothing_in_a_workdir(again, idle, job, change, words):
    recipe, folder = again
    before = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    with pytest.raises(ValueError, match=words) as error:
        job(altered(recipe, **change), str(folder))
    assert "\n" not in str(error.value)
    assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == before


@pytest.mark.parametrize(("change", "words"), [*BAD[:4], *NEW])
def test_a_bad_recipe_makes_no_workdir(small, tmp_path, idle, change, words):
    with pytest.raises(ValueError, match=words) as error:
        jobs.attack(altered(small[0], **change), str(tmp_path / "new"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new" / "config.json").exists()


def test_the_class_with_the_highest_label_missing_from_the_bank(tmp_path, idle):
    labels = np.array([0, 1] * 200 + [2] * 8)
    images = np.random.default_rng(0).random((len(labels), 2, 2), np.float32)
    np.savez(tmp_path / "set.npz", images=images, labels=labels)
    recipe = altered(PIXELS, data={"name": str(tmp_path / "set.npz")})
    rows = int(np.flatnonzero(data.load(recipe.data).train.labels == 2)[0])  # all before are 0 and 1
    with pytest.raises(ValueError, match="class 2"):
        jobs.attack(altered(recipe, classifier={"bank_rows": rows}), str(tmp_path / "run"))


@pytest.mark.parametrize("job", [jobs.train, jobs.attack, jobs.certify])
def test_other_data_of_the_same_name_are_no_job(tmp_path, idle, job):
    """The labels are shifted; without them the network would be taken for trained."""
    labels = np.arange(400) % 10
    images = np.random.default_rng(0).random((400, 2, 2), np.float32)
    recipe = altered(PIXELS, data={"name": str(tmp_path / "set.npz")})
    np.savez(tmp_path / "set.npz", images=images, labels=labels)
    jobs.train(recipe, str(tmp_path / "run"))
    np.savez(tmp_path / "set.npz", images=images, labels=(labels + 3) % 10)
    with pytest.raises(ValueError, match="have changed") as error:
        job(recipe, str(tmp_path / "run"))
    assert str(tmp_path / "run") in str(error.value)


def test_a_job_holds_its_workdir_to_its_end(tmp_path, monkeypatch):
    def network(recipe, dataset, folder):
        with pytest.raises(ValueError, match="in use by"):
            jobs.certify(recipe, str(folder))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(jobs.recipes, "network", network)
        with pytest.raises(KeyboardInterrupt):
            jobs.train(PIXELS, str(tmp_path))
    jobs.train(PIXELS, str(tmp_path))


def test_a_racnn_has_no_constant_and_a_certified_classifier_full_precision(tmp_path):
    assert not recipes.certifiable(altered(PIXELS, net={"name": "digits_racnn"}))
    dataset = data.load(PIXELS.data)
    trunk = altered(PIXELS, net={"name": "digits"}, classifier={"layers": ("relu3",)})
    net = nets.build(trunk.net, 10)
    x = jnp.asarray(dataset.test.floats(0, 1))
    variables = net.init(jax.random.key(0), x)
    for recipe, told in ((trunk, True), (altered(trunk, classifier={"metric": "cosine"}), False)):
        model = recipes.bank(recipe, (net, variables), dataset, ("relu3",))
        assert ("HIGHEST" in str(jax.make_jaxpr(model.features)(x))) is told


def test_nothing_to_do_is_said(tmp_path, idle):
    two = altered(PIXELS, classifier={"layers": ("pixels", "pixels")}, attack={"norms": ()})
    with pytest.raises(ValueError, match=r"classifier\.layers|attack\.norms"):
        jobs.attack(two, str(tmp_path))
    with pytest.raises(ValueError, match=r"certificates cover neighbours in one layer"):
        jobs.certify(two, str(tmp_path))
