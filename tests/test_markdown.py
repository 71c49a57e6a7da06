"""Reports side by side in Markdown, from outcomes worked out by hand."""

import json
import re
import sys

import numpy as np
import outcomes
import pytest
from outcomes import L2, LABELS, LINF, NORM, RADIUS, RECIPE, attacked, certified
from reported import reported
from scipy import stats

from knn_jax import data, defenses, nets
from knn_jax.display import command
from knn_jax.recipe import fit
from knn_jax.report import evidence, markdown
from knn_jax.training import Optim


@pytest.fixture(scope="module")
def system():
    return outcomes.system()


RACNN = defenses.RaCNN(nets.cifar10_racnn(), nets.cifar10_all_conv(), layer="conv5")


def reporting(figures):
    """The recipe with these figures of its paper."""
    return RECIPE.but(paper=RECIPE.paper.reports(figures))


FIFTHS = "[0.000, 0.434]", "[0.036, 0.624]", "[0.118, 0.769]", "[0.231, 0.882]"


def fifths(within):
    """Radii and how many of five images are left within each, as the tables tell it."""
    return "  ".join(f"{r}: {k / 5:.3f} {FIFTHS[k]}" for r, k in within.items())


@pytest.mark.parametrize("n", [1, 5, 20, 100, 999])
def test_the_interval_is_wilsons(n):
    for right in {0, 1, n // 3, n // 2, n}:
        wanted = stats.binomtest(right, n).proportion_ci(method="wilson")
        assert evidence.interval(right / n, n) == pytest.approx((wanted.low, wanted.high), abs=1e-6)


def test_what_was_reported_reproduced_found_and_certified_stands_side_by_side(system):
    """Each with the n that it was measured on; the strongest attack and certificate."""
    attacks = {("guided", "l2"): attacked(NORM[:2] + 1), L2: attacked(), LINF: attacked()}
    certificates = {"margin": certified(0.5 * RADIUS), "voronoi": certified()}
    lines = markdown.lines(reported(system, attacks, certificates))
    name = "by <hand>, 1-NN on pixels"
    assert lines == [
        (name, "reported", "", "", "", "2.105", "1: 0.910"),
        (
            name,
            "reproduced, guided",
            "2",
            "0.8000",
            "1.000",
            "2.500",
            "0.5: 1.000 [0.342, 1.000]  0.75: 1.000 [0.342, 1.000]  1: 1.000 [0.342, 1.000]  "
            "5: 0.000 [0.000, 0.658]",
        ),
        (
            name,
            "adaptive",
            "5",
            "0.8000",
            "0.750",
            "1.167",
            fifths({"0.5": 3, "0.75": 3, "1": 2, "5": 1}),
        ),
        (name, "adaptive, linf", "5", "0.8000", "0.750", "1.167", fifths({"0.5": 3, "2": 1})),
        (
            *(name, "certified, voronoi", "5", "0.8000", "", "1.312"),
            fifths({"0.5": 3, "0.75": 2, "1": 2, "5": 0}),
        ),
    ]
    body = markdown.details([reported(system, attacks, certificates)])
    assert [line.count("|") for line in body.splitlines()] == [8] * 7


def test_an_attack_without_a_gradient_is_flagged_wherever_its_number_stands(system):
    blind = attacked()
    blind.arrays["no_gradient"] = np.array([False, True, True, False, False])
    told = reported(system, {("guided", "l2"): blind, L2: blind}, {})
    words = "no gradient on 2 of 5"
    kinds = [line[1] for line in markdown.lines(told)]
    assert kinds == ["reported", f"reproduced, guided ({words})", f"adaptive ({words})"]
    [line] = markdown._summary(told)
    cells = dict(zip(markdown.SUMMARY, line, strict=True))
    assert cells["reproduced"].endswith(words)
    assert cells["adaptive"].endswith(words)


def test_a_name_opens_no_cell_line_or_tag(system):
    names = "a|b", "a\nb", "<!-- end -->", "a\\"
    found = [reported(system, {L2: attacked()}, {}) for _ in names]
    found = [told | {"name": name} for told, name in zip(found, names, strict=True)]
    for made, width in (
        (markdown.summary, len(markdown.SUMMARY)),
        (markdown.details, len(markdown.FIGURES)),
    ):
        text = made(found)
        assert all(len(re.split(r"(?<!\\)\|", line)) == width + 2 for line in text.splitlines())
        assert "<!-- end" not in text.replace("\\<", "")
        assert "a\\\\, 1-NN" in text


def test_figures_of_one_attack_of_several_and_attacks_on_another_source(system):
    """What a paper never tried, its attack through the retrieval, is no reproduction."""
    told = {"pixels": {"clean_acc": 0.9}, "pixels, fgsm": {"acc_l2_1": 0.5}, "other, fgsm": {}}
    recipe = reporting(told)
    named = "fgsm", "fgsm on network", "boundary"
    attacks = {(name, "l2"): attacked(NORM + i) for i, name in enumerate(named)}
    found = reported(system, attacks, {}, recipe)
    assert found["reported_attacks"] == {"fgsm": {"acc_l2_1": 0.5}}
    kinds = [line[1] for line in markdown.lines(found)]
    all_three = [f"reproduced, {name}" for name in named]
    assert kinds == ["reported, fgsm", *all_three, "adaptive"]
    other = recipe.but(classifier=fit.Retrieval(), defense=RACNN)
    figures = {"conv5": told["pixels"], "conv5, fgsm": told["pixels, fgsm"]}
    other = other.but(paper=other.paper.reports(figures))
    found = reported(system, attacks, {}, other)
    kinds = [line[1] for line in markdown.lines(found)]
    assert kinds == ["reported, fgsm", *all_three[1:], "adaptive"]


@pytest.mark.parametrize("names", [("margin", "voronoi"), ("voronoi", "margin")])
def test_the_strongest_certificate_is_that_of_the_largest_mean_radius(system, names):
    radii = {"margin": 0.5 * RADIUS, "voronoi": RADIUS}
    certificates = {name: certified(radii[name]) for name in names}
    summed = reported(system, {}, certificates)
    assert [figure.what for figure in markdown.told(summed).certified] == ["certified, voronoi"]
    assert markdown.told(summed | {"certificates": []}).certified == []


def test_a_paper_may_have_reported_certificates_only(system):
    figures = {"clean_acc": 0.97, "mean_radius": 0.86, "cert_0.5": 0.8}
    recipe = reporting({"pixels": figures, "relu1": {"mean_l2": 1.0}})
    lines = markdown.lines(reported(system, {}, {"margin": certified()}, recipe))
    assert [line[1:] for line in lines[:1]] == [
        ("reported, certified", "", "0.9700", "", "0.860", "0.5: 0.800")
    ]
    assert len(lines) == 2


def test_the_summary_has_a_line_for_each_norm(system):
    """At the least radius reported within which ours leaves less than half of .8."""
    told = {"pixels": {"clean_acc": 0.97, "mean_l2": 2.1, "acc_l2_1": 0.91, "cert_1": 0.5}}
    recipe = reporting(told)
    papers = {("guided", "l2"): attacked(NORM[:2] + 1), ("boundary", "l2"): attacked(NORM + 0.25)}
    attacks = papers | {L2: attacked(), LINF: attacked()}
    [l2, linf] = markdown._summary(reported(system, attacks, {"margin": certified()}, recipe))
    clean = "0.8000 [0.376, 0.964]"
    assert l2[1:] == (
        *("", "l2 1", f"{clean} (paper 0.9700)", "2, 5, 5", "0.910 (2.100)"),
        *(f"0.600 {FIFTHS[3]} (1.417 of 75.0%)", f"0.400 {FIFTHS[2]} (1.167 of 75.0%)"),
        f"0.400 {FIFTHS[2]} (1.312) (paper 0.500)",
    )
    assert linf[1:] == (*("", "linf 2", clean, "5", "", "", f"0.200 {FIFTHS[1]} (1.167 of 75.0%)", ""),)


@pytest.mark.parametrize(
    ("defense", "epochs", "images", "told"),
    [
        (RECIPE.defense, 15, 0, ""),
        (defenses.CrossEntropy(nets.mnist_convnet()), 15, 0, "15 epochs"),
        (defenses.CrossEntropy(nets.mnist_convnet()), 3, 5000, "3 epochs of 5000 images"),
        (defenses.CrossEntropy(nets.mnist_convnet(), weights="theirs.npz"), 3, 0, "given weights"),
    ],
)
def test_the_summary_tells_how_a_network_was_trained(system, defense, epochs, images, told):
    recipe = RECIPE.but(
        defense=defense, optim=Optim(epochs=epochs), data=data.Digits(train_images=images)
    )
    [line] = markdown._summary(reported(system, {L2: attacked()}, {}, recipe))
    assert line[1] == told


@pytest.mark.parametrize(
    ("within", "reported", "radius"),
    [
        ({"0.5": 0.5, "1.0": 0.3, "2.0": 0.1}, (), "1"),
        ({"0.5": 0.5, "1.0": 0.45, "2.0": 0.41}, (), "2"),  # never below half
        ({"2.0": 0.1, "1.0": 0.3}, (), "1"),  # in whatever order
        ({"0.5": 0.1, "1.0": 0.1, "2.0": 0.1}, ("1", "2"), "1"),
        ({"0.5": 0.1, "0.031373": 0.3}, ("0.03137",), "0.03137"),  # to four digits
        ({"0.5": 0.1}, ("9",), "0.5"),  # the paper has another
        ({"0.5": (0.3, 0.1)}, (), "0.5"),  # over trials
        ({}, (), ""),
    ],
)
def test_the_radius_of_the_summary(within, reported, radius):
    ours = markdown.Figure("adaptive", "l2", 5, 0.8, 1.0, 1.0, within)
    papers = [ours._replace(within={r: 0.5}) for r in reported]
    assert markdown._radius(ours, papers) == radius


def test_a_smoothed_classifier_has_a_line_of_its_own(system):
    predict = np.array([0, -1, 0, 0, 0])
    arrays = {"radius": RADIUS, "predict": predict, "right": predict == LABELS}
    smoothing = certified()._replace(arrays=arrays)
    both = {"smoothing": smoothing, "margin": certified(0.1 * RADIUS)}
    told = reported(system, {L2: attacked()}, both)
    assert [figure.what for figure in markdown.told(told).certified] == ["certified, margin"]
    own, smoothed = markdown._summary(told)
    assert smoothed[0] == f"{own[0]}, smoothing"
    clean, proven = f"0.6000 {FIFTHS[3]}", f"0.200 {FIFTHS[1]} (1.250)"
    assert smoothed[1:] == ("", "l2 0.75", clean, "5", "", "", "", proven)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("reported mean_l2", "2.105"),
        ("all clean_acc", "0.800 [0.376, 0.964]"),
        ("adaptive n", "5"),
        ("adaptive/linf 0.5", f"0.600 {FIFTHS[3]}"),
        ("minimum_norm/l2 mean", "1.167"),
        ("guided found", "1.000"),
        ("guided 0.75", "1.000 [0.342, 1.000]"),
        ("voronoi mean", "1.312"),
        ("margin 0.5", f"0.400 {FIFTHS[2]}"),
        ("guided 7", None),
        ("guided/linf 0.5", None),
        ("pgd n", None),
        ("reported acc_l2_9", None),
    ],
)
def test_a_number_in_a_sentence_is_that_of_its_report(system, asked, told):
    attacks = {("guided", "l2"): attacked(NORM[:2] + 1), L2: attacked(), LINF: attacked()}
    certificates = {"margin": certified(0.5 * RADIUS), "voronoi": certified()}
    reports = {"run": reported(system, attacks, certificates)}
    text = "Of <!-- run {} -->{}<!-- / --> images.\n<!-- summary -->\n<!-- end -->\n"
    if told is None:
        with pytest.raises(ValueError, match=f"no report given tells <!-- run {asked} -->"):
            markdown.fill(text.format(asked, "1"), reports)
    else:
        filled = markdown.fill(text.format(asked, "old"), reports)
        assert filled.startswith(text.format(asked, told).partition("\n")[0])
        assert markdown.fill(filled, reports) == filled
    with pytest.raises(ValueError, match="no report given tells <!-- other"):
        markdown.fill(text.replace("run", "other").format(asked, "1"), reports)


def test_files_are_filled_and_what_is_no_report_is_refused(system, tmp_path, monkeypatch, capsys):
    def run(*files):
        monkeypatch.setattr(sys, "argv", ["markdown", *map(str, files)])
        return command.run(markdown.main)

    told = reported(system, {L2: attacked()}, {})
    (tmp_path / "a.json").write_text(json.dumps(told))
    text = tmp_path / "text.md"
    for name, table in (("summary", markdown.summary), ("details", markdown.details)):
        text.write_text(f"before\n<!-- {name} -->\nold\n<!-- end -->\nafter\n")
        run(text, tmp_path / "a.json")
        filled = text.read_text()
        assert filled == f"before\n<!-- {name} -->\n\n{table([told])}\n<!-- end -->\nafter\n"
        assert markdown.fill(filled, {"a": told}) == filled
    capsys.readouterr()
    run(tmp_path / "a.json")
    assert capsys.readouterr().out == f"{markdown.summary([told])}\n{markdown.details([told])}\n"
    (tmp_path / "bare.md").write_text("nothing\n")
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_text("3")
    (tmp_path / "d.json").write_text(json.dumps({k: v for k, v in told.items() if k != "attacks"}))
    for files, words in (
        ((text,), "give report.json files"),
        ((tmp_path / "none.json",), "cannot be read"),
        *(((tmp_path / f"{name}.json",), f"{name}.json is no report") for name in "bcd"),
        ((text, tmp_path / "bare.md", tmp_path / "a.json"), "no <!-- summary -->"),
    ):
        with pytest.raises(SystemExit):
            run(*files)
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert text.read_text() == filled
