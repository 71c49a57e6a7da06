"""The figures of a report, from outcomes worked out by hand."""

import csv
import dataclasses
import html
import json

import numpy as np
import outcomes
import pytest
from outcomes import CLEAN, L2, LABELS, LINF, NORM, RADIUS, RECIPE, attacked, certified
from reported import asking, reported, written

from knn_jax import classifiers, defenses, nets
from knn_jax.display import progress
from knn_jax.evaluation.attacked import worst
from knn_jax.measures import Measured
from knn_jax.recipe import fit, papers
from knn_jax.report import html as pages
from knn_jax.report import write
from knn_jax.report.report import AttackEntry, CertificateEntry, Report

LAYER = RECIPE.classifier.label(RECIPE.defense)


def violations(attacked, certified):
    return write.violations(asking(RECIPE, attacked, certified), attacked, certified)


@pytest.fixture(scope="module")
def system():
    return outcomes.system()


def test_an_attack(system):
    [found] = reported(system, {L2: attacked()}, {})["attacks"]
    assert found["success_rate"] == 3 / 4  # of the four that were right
    assert found["mean_norm"] == pytest.approx((1 + 2 + 0.5) / 3)
    assert found["median_norm"] == 1
    # Of all five: at 0.5 the last has fallen, the one that resists stands at any radius.
    assert found["robust_acc"] == {"0.5": 3 / 5, "0.75": 3 / 5, "1.0": 2 / 5, "5.0": 1 / 5}
    assert (found["gradients"], found["seconds"], found["compile_seconds"]) == (7, 1.25, 0.5)


def test_linf_has_radii_of_its_own(system):
    [found] = reported(system, {LINF: attacked()}, {})["attacks"]
    assert found["robust_acc"] == {"0.5": 3 / 5, "2.0": 1 / 5}


@pytest.mark.parametrize(
    ("lengths", "share"),
    [([1.0, 2.0, np.inf, 0.0, 0.5], 0), ([0.9, 2.1, np.inf], 1 / 3), ([0.9, 1.9, 9.0, 0.0, 0.4], 1)],
)
def test_an_attack_is_masked_where_decisions_alone_find_less(system, lengths, share):
    """Of the images that are right and that both were run on."""
    boundary = attacked(np.array(lengths, np.float32))
    found = {("boundary", "l2"): boundary, L2: attacked(), LINF: attacked(), ("pgd", "l2"): attacked()}
    summary = reported(system, found, {})
    blind, ours, *others = summary["attacks"]
    assert ours["masked"] == pytest.approx(share)
    assert not any("masked" in entry for entry in (blind, *others))
    names = [row[0] for row in pages.rows(summary)]
    assert names[1] == ("minimum_norm (masked)" if share else "minimum_norm")
    assert names[0] == "boundary"
    assert ("Masked:" in pages.page(summary, {})) is bool(share)


def flagged(norm=NORM, **flags):
    found = attacked(norm)
    return found._replace(arrays=found.arrays | {name: np.array(v) for name, v in flags.items()})


def test_where_an_attack_had_no_gradient_or_ran_out_of_steps_is_counted_and_told(system, tmp_path):
    """Of images that are right without it; the fourth is not."""
    some, every = [True, False, True, True, False], [True] * 5
    found = {
        L2: flagged(no_gradient=some, exhausted=[False] * 5),
        ("deepfool", "l2"): flagged(no_gradient=[False] * 5, exhausted=every),
        LINF: attacked(),
    }
    summary = written(system, found, {}, tmp_path)
    one, two, old, worst = summary["attacks"]
    assert (one["no_gradient"], one["exhausted"]) == (2, 0)
    assert (two["no_gradient"], two["exhausted"]) == (0, 4)
    assert (worst["no_gradient"], worst["exhausted"]) == (0, 0)
    assert not {"no_gradient", "exhausted"} & set(old)
    names = [row[0] for row in pages.rows(summary)]
    assert names == [
        "minimum_norm (no gradient on 2 of 5)",
        "deepfool (out of steps on 4 of 5)",
        "minimum_norm",
        "least of all",
    ]
    page = (tmp_path / "report.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in names)


def test_the_least_of_all_lacks_a_gradient_where_all_did():
    """Of those that were run on the image; and where all tell."""
    one = flagged(no_gradient=[True, True, False, False, True])
    two = flagged(NORM[:3], no_gradient=[True, False, False])
    least = worst([one, two])
    assert least.arrays["no_gradient"].tolist() == [True, False, False, False, True]
    assert "no_gradient" not in worst([one, attacked()]).arrays


@pytest.mark.parametrize("name", ["[red]x[/oops]", ":x: $\\frac$ $", "<b>&</b> | `a`\\"])
def test_a_name_is_told_to_the_letter(system, tmp_path, capsys, name):
    """In the terminal, on the page and in pictures, whatever it means to what draws them."""
    recipe = RECIPE.but(name=name)
    folder = tmp_path / "[bold]x[/no] :x:"
    told = written(system, {L2: attacked()}, {"margin": certified()}, folder, recipe)
    told["analysis"] = {"layer": name, "n": 1, "lid": None, "jacobian_norm": 1.0}
    told["violations"] = 1
    write.show(told, folder)
    printed = capsys.readouterr().out
    assert f"{name}: 1-NN" in printed
    assert str(folder / "report.json") in printed
    page = (folder / "report.html").read_text()
    assert f"<h1>{html.escape(name)}</h1>" in page
    progress.say(f"{folder}")
    with progress.bar(f"{folder}", 1):
        pass
    assert f"{folder}\n" in capsys.readouterr().err


def test_what_an_exact_certificate_left_open_is_told(system):
    outcome = certified()
    outcome.arrays["closed"] = np.array([True, False, True, True])
    told = reported(system, {}, {"margin": certified(), "exact": outcome})
    assert [c.get("closed") for c in told["certificates"]] == [None, 0.75]
    assert [row[0] for row in pages.rows(told)] == [
        "certified: margin",
        "certified: exact (25.0% open)",
    ]


def test_a_certificate(system):
    # The misclassified one is not certified, whatever radius it is given.
    radius = np.where(CLEAN == LABELS, RADIUS, 9.0)
    summary = reported(system, {}, {"margin": certified(radius)})
    [found] = summary["certificates"]
    assert found["certified_acc"] == {"0.5": 3 / 5, "0.75": 2 / 5, "1.0": 2 / 5, "5.0": 0}
    assert found["mean_radius"] == pytest.approx((0.5 + 1.5 + 3 + 0.25) / 4)
    assert found["mean_radius_all"] == pytest.approx((0.5 + 1.5 + 3 + 0 + 0.25) / 5)
    assert found["seconds"] == 0.25
    assert (summary["n"], summary["clean_acc"]) == (5, 4 / 5)


def test_robust_accuracy_is_never_below_certified_without_violations(system):
    both = reported(system, {L2: attacked()}, {"margin": certified()})
    assert both["violations"] == 0
    robust, safe = both["attacks"][0]["robust_acc"], both["certificates"][0]["certified_acc"]
    assert all(robust[radius] >= safe[radius] for radius in ("0.75", "1.0", "5.0"))


@pytest.mark.parametrize(
    ("change", "count"),
    [({}, 0), ({0: 1.0}, 0), ({0: 1.01}, 1), ({1: 9.0, 4: 0.51}, 2), ({2: 1e9}, 0), ({3: 0.1}, 1)],
)
def test_radii_above_a_norm_are_counted(change, count):
    radius = RADIUS.copy()
    radius[list(change)] = list(change.values())
    assert violations({L2: attacked()}, {"margin": certified(radius)}) == count
    both = {"margin": certified(radius), "voronoi": certified(radius)}
    assert violations({L2: attacked()}, both) == 2 * count


def test_a_linf_attack_violates_by_its_l2_norm():
    above = attacked(norm=0.1 * NORM, l2=NORM)
    assert violations({LINF: above}, {"margin": certified()}) == 0
    below = attacked(norm=0.1 * NORM, l2=0.4 * NORM)
    assert violations({LINF: below}, {"margin": certified()}) == 3


def test_outcomes_of_different_lengths(system, tmp_path):
    first = {L2: attacked(NORM[:2])}
    summary = written(system, first, {"margin": certified()}, tmp_path)
    assert (summary["n"], summary["clean_acc"], summary["violations"]) == (5, 4 / 5, 0)
    assert summary["attacks"][0]["n"] == 2
    assert summary["attacks"][0]["robust_acc"]["1.0"] == 1 / 2
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["clean"] for row in rows] == ["0", "1", "0", "0", "0"]
    assert [row["minimum_norm_l2_norm"] for row in rows] == ["1.0", "2.0", "", "", ""]
    assert [float(row["margin_radius"]) for row in rows] == RADIUS.tolist()


def test_what_is_written_is_what_is_returned(system, tmp_path):
    both = {L2: attacked()}, {"margin": certified(), "voronoi": certified()}
    summary = written(system, *both, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == summary
    with np.load(tmp_path / "adversarial.npz") as file:
        np.testing.assert_array_equal(file["minimum_norm_l2"], both[0][L2].arrays["image"])
    page = (tmp_path / "report.html").read_text()
    assert "by &lt;hand&gt;" in page  # escaped, not markup
    assert "by <hand>" not in page
    assert "2.1054" in page
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted(
        [
            *("report.json", "results.csv", "adversarial.npz", "report.html"),
            *("curve.png", "examples.png", "confusion.png"),
        ]
    )


def in_balls(trials):
    """Of `trials` (5, count), the norms that each trial found."""
    found = attacked(trials[:, 0])
    ask = {
        "temperature": np.full((5, 1), 0.5, np.float32),
        "weights": np.ones((5, 1), np.float32),
        "information_clean": np.array([1.0, 2.0, 3.0, 99.0, 2.0], np.float32),
        "information_adversarial": np.array([0.5, 0.5, 2.5, 99.0, 0.5], np.float32),
        "confidence": np.array([1.0, 0.9, 1.0, 1.0, 1.0], np.float32),
    }
    return found._replace(arrays={**found.arrays, "trials": trials, **ask})


def test_an_attack_in_balls_over_three_trials(system, tmp_path):
    """Within 0.5 two, three and four of five images are left; the fourth is wrong anyhow."""
    inf = np.inf
    trials = np.array([[0.5, inf, inf], [0.5, 0.5, 1.0], [inf] * 3, [0.0] * 3, [inf] * 3], np.float32)
    outcomes = {("ask", "l2"): in_balls(trials), L2: attacked()}
    summary = written(system, outcomes, {}, tmp_path)
    found = summary["attacks"][0]
    assert found["robust_acc"]["0.5"] == pytest.approx(2 / 5)
    assert found["trials"] == 3
    assert found["mean_acc"]["0.5"] == pytest.approx(3 / 5)
    assert found["interval"]["0.5"] == pytest.approx(4.302653 * 0.2 / 3**0.5)
    assert found["mean_acc"]["1.0"] == pytest.approx((2 + 3 + 3) / 15)
    assert (found["temperature"], found["weights"]) == ([0.5], [1.0])
    assert found["information"] == {"clean": 1.5, "adversarial": 0.5}
    assert found["agreed"] == {"fell": 0.5, "resisted": 1.0}
    assert not (tmp_path / "norms_l2.png").exists()  # one of the two searched for no norm
    assert "trials" not in summary["attacks"][1]


def test_the_least_of_attacks_over_trials_is_that_of_the_first():
    inf = np.inf
    trials = np.array([[0.5, inf], [inf, 0.5]], np.float32)
    one = in_balls(np.repeat(trials[:1], 5, 0))
    two = in_balls(np.repeat(trials[1:], 5, 0))
    least = worst([one, two])
    assert "trials" not in least.arrays
    np.testing.assert_array_equal(least.arrays["norm"], np.full(5, 0.5))


def test_features_without_a_lipschitz_constant_have_none(system, tmp_path):
    free = dataclasses.replace(system, lipschitz=np.inf)
    written(free, {L2: attacked()}, {}, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["lipschitz"] is None
    assert "Lipschitz" not in (tmp_path / "report.html").read_text().split("<details>")[0]


def test_where_no_attack_succeeds_there_is_no_mean(system, tmp_path):
    never = attacked(np.where(CLEAN == LABELS, np.inf, 0).astype(np.float32))
    written(system, {L2: never}, {"margin": certified()}, tmp_path)

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    text = (tmp_path / "report.json").read_text()
    [found] = json.loads(text, parse_constant=refuse)["attacks"]
    assert (found["success_rate"], found["mean_norm"], found["median_norm"]) == (0, None, None)
    assert set(found["robust_acc"].values()) == {4 / 5}


def test_the_table_and_the_paths_are_shown(system, tmp_path, capsys):
    both = {L2: attacked()}, {"margin": certified(2 * NORM.clip(0, 9))}
    write.show(written(system, *both, tmp_path), tmp_path)
    printed = capsys.readouterr()
    for words in ("by <hand>: 1-NN on pixels, 6 rows; clean accuracy 0.8000 of 5", "0.750", "1.167"):
        assert words in printed.out
    assert str(tmp_path / "report.html") in printed.out
    assert "3 certified radii exceed an attack" in printed.err


def test_the_least_of_several_attacks_stands_below_them(system, tmp_path):
    """Image by image; what only one of them found counts as found."""
    other = attacked(NORM[::-1].copy())
    both = {L2: attacked(), ("boundary", "l2"): other, LINF: attacked()}
    summary = written(system, both, {}, tmp_path)
    assert [a["name"] for a in summary["attacks"]] == [
        "minimum_norm",
        "boundary",
        "minimum_norm",
        "least of all",
    ]
    least = write.worst_cases(both)["least of all", "l2"].arrays
    np.testing.assert_array_equal(least["norm"], np.minimum(NORM, NORM[::-1]))
    np.testing.assert_array_equal(least["success"], np.isfinite(least["norm"]))
    np.testing.assert_array_equal(least["gradients"], 2 * attacked().arrays["gradients"])


def test_the_least_of_attacks_on_more_and_fewer_images():
    few = attacked(np.array([0.25, 3.0], np.float32))
    least = write.worst_cases({("guided", "l2"): few, L2: attacked()})["least of all", "l2"].arrays
    np.testing.assert_array_equal(least["norm"], [0.25, 2.0, np.inf, 0.0, 0.5])
    np.testing.assert_array_equal(least["success"], np.isfinite(least["norm"]))
    np.testing.assert_array_equal(least["gradients"], [14, 14, 7, 7, 7])
    assert least["image"].shape == (5, 3, 3, 1)


def test_several_trials_are_told_by_mean_and_interval_and_ask_by_what_it_tells(system):
    outcome = attacked()
    outcome.arrays["trials"] = np.stack([NORM, 0.5 * NORM], 1)
    for name in ("temperature", "weights"):
        outcome.arrays[name] = np.ones((5, 1))
    told = {"clean": 1.5, "adversarial": -0.5}
    outcome.arrays.update({f"information_{name}": np.full(5, value) for name, value in told.items()})
    outcome.arrays["confidence"] = np.array([1.0, 0.5, 1.0, 1.0, 0.5])
    told = reported(system, {("ask", "l2"): outcome}, {})
    [row] = pages.rows(told)
    # Accuracies .6 and .4 of two trials: half of .2 times the t quantile of one degree of freedom.
    assert row[-2].split("  ")[0] == "0.5: 0.500 ± 1.271"
    [(head, line)] = pages.measured(told)
    assert dict(zip(head, line, strict=True)) == {
        **{"attack": "ask, l2", "information, clean": "1.500", "adversarial": "-0.500"},
        **{"agreed: fell": "0.333", "resisted": "1.000"},
    }


def smoothed():
    """What randomised smoothing found: it abstains from the second, and is right of the others."""
    predict = np.array([0, -1, 0, 1, 0])
    return certified()._replace(
        arrays={"radius": RADIUS, "predict": predict, "right": predict == LABELS}
    )


def test_a_smoothed_classifier_stands_beside_the_others(system, tmp_path):
    """Its radii count where it is right itself; they promise nothing of the classifier attacked."""
    both = {"margin": certified(), "smoothing": smoothed()}
    told = written(system, {L2: attacked()}, both, tmp_path)
    margin, smoothing = told["certificates"]
    assert (smoothing["clean_acc"], smoothing["abstains"]) == (4 / 5, 1 / 5)
    assert smoothing["certified_acc"]["0.5"] == 2 / 5
    assert smoothing["mean_radius"] == pytest.approx((0.5 + 3 + 0 + 0.25) / 4)
    assert not {"clean_acc", "abstains"} & set(margin)
    lines = (tmp_path / "smoothing.tsv").read_text().splitlines()
    assert len(lines) == 6
    beyond = certified(99 * RADIUS)._replace(
        arrays=smoothed().arrays | {"radius": 99 * np.ones(5, np.float32)}
    )
    assert reported(system, {L2: attacked()}, {"smoothing": beyond})["violations"] == 0
    assert [row[0] for row in pages.rows(told)][1:] == ["certified: margin", "certified: smoothing"]


def test_what_a_report_says_of_the_run(system):
    told = reported(system, {L2: attacked(), ("guided", "l2"): attacked()}, {"margin": certified()})
    assert set(told) == {
        *("name", "command", "paper", "dataset", "decider", "trained", "weights", "layer", "k"),
        *("bank_rows", "fingerprint", "test_digest", "n", "clean_acc", "lipschitz", "attacks"),
        *("certificates", "violations", "reported", "reported_attacks", "config", "hardware"),
        "versions",
    }
    assert told["paper"]["link"] == RECIPE.paper.link
    assert "figures" not in told["paper"]
    assert (told["decider"], told["dataset"], told["k"], told["weights"]) == (
        *("1-NN on pixels", "digits", 1, ""),
    )
    assert told["config"]["attacks"]["minimum_norm"]["class"] == "MinimumNorm"
    assert [entry["baseline"] for entry in told["attacks"]] == [False, True, False]
    assert json.loads(json.dumps(told)) == told


def test_what_was_measured_is_in_all_files(system, tmp_path):
    found = Measured({"separation": 0.5}, {"own": np.arange(5)}, {"own.png": b"PNG"})
    told = written(system, {L2: attacked()}, {}, tmp_path, measured=found)
    assert told["separation"] == 0.5
    assert (tmp_path / "own.png").read_bytes() == b"PNG"
    with open(tmp_path / "results.csv", newline="") as file:
        assert [row["own"] for row in csv.DictReader(file)] == list("01234")
    page = (tmp_path / "report.html").read_text()
    assert "0.500" in page
    assert 'alt="own.png"' in page


RACNN = defenses.RaCNN(nets.cifar10_racnn(), nets.cifar10_all_conv(), layer="conv5")


@pytest.mark.parametrize(
    ("classifier", "defense", "picture"),
    [
        (fit.Prototypes(), defenses.Repulsive(nets.mnist_convnet()), "lookalikes.png"),
        (fit.Retrieval(), RACNN, "retrieved.png"),
    ],
)
def test_what_is_no_plain_knn_has_a_picture_of_its_own(
    system, tmp_path, monkeypatch, classifier, defense, picture
):
    monkeypatch.setattr(type(defense), "summary", lambda *_: {})  # of what it trained
    rows = system.model
    decides = classifiers.prototypes(rows, rows.images[:2].reshape(2, -1))
    one = dataclasses.replace(system, model=decides if "like" in picture else rows)
    recipe = RECIPE.but(classifier=classifier, defense=defense)
    written(one, {L2: attacked()}, {}, tmp_path, recipe)
    assert (tmp_path / picture).read_bytes()[:4] == b"\x89PNG"
    assert len({"lookalikes.png", "retrieved.png"} & {file.name for file in tmp_path.iterdir()}) == 1


def test_a_paper_is_told_beside_its_figures(system):
    paper = papers.WANG.reports({LAYER: {"clean_acc": 0.9}})
    found = reported(system, {}, {"margin": certified()}, RECIPE.but(paper=paper))
    for told in (pages.cited(found), pages.page(found, {})):
        for part in (paper.title, paper.authors, paper.link, "clean_acc 0.9"):
            assert part in told
    found = reported(system, {}, {"margin": certified()}, RECIPE.but(paper=None))
    assert pages.cited(found) == ""


@pytest.mark.parametrize(
    ("found", "shown"), [({"lid": 2.0}, ("2.000", "")), ({"jacobian_norm": 3.0}, ("", "3.000"))]
)
def test_one_of_two_measures_of_the_features_is_enough(found, shown):
    [[_, line]] = pages.measured({"analysis": {"layer": "relu3", "n": 5, "seconds": 1.0, **found}})
    assert line == ("relu3", "5", *shown)


def test_what_is_written_is_what_the_types_say(system):
    told = reported(system, {L2: attacked()}, {"margin": certified()})
    [attack], [certificate] = told["attacks"], told["certificates"]
    for kind, part in ((Report, told), (AttackEntry, attack), (CertificateEntry, certificate)):
        assert kind.__required_keys__ <= set(part) <= set(kind.__annotations__)
