"""Several runs side by side: what is read of them, what is drawn, and what is refused."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from knn_jax import data, values, workdir
from knn_jax.display import canvas, command
from knn_jax.recipe import Evaluate
from knn_jax.report import compare, figures
from knn_jax.report.figures import comparison

N = 5
DIGITS = data.Digits()


@pytest.fixture(scope="module")
def test_set():
    return data.Digits().load().test


@pytest.fixture
def finished(tmp_path, test_set):
    """Writes a workdir as attack.py leaves it, by attack and norm the lengths found."""

    def write(name, lengths, wrong=(), of=DIGITS, analysis=None):
        folder, labels = tmp_path / name, test_set.labels
        folder.mkdir()
        wrong = wrong if isinstance(wrong, dict) else {i: (labels[i] + 1) % 10 for i in wrong}
        columns = {"label": labels, "clean": [wrong.get(i, v) for i, v in enumerate(labels)]}
        images = {}
        for (attack, norm), found in lengths.items():
            columns[f"{attack}_{norm}_norm"] = found
            columns[f"{attack}_{norm}_adversarial"] = (labels[: len(found)] + 1) % 10
            grey = np.full_like(test_set.images[: len(found)], 0.1 * (1 + len(images)))
            images[f"{attack}_{norm}"] = grey
        with open(folder / "results.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["index", *columns])
            for i in range(len(labels)):
                rows.writerow([i, *(c[i] if i < len(c) else "" for c in columns.values())])
        np.savez(folder / "adversarial.npz", **images)
        report = {
            **{"name": name, "decider": "5-NN on relu3", "n": len(labels), "dataset": of.name},
            "attacks": [
                {"name": attack, "norm": norm, "robust_acc": {"1.2": 0.5}} for attack, norm in lengths
            ],
            "config": {"data": values.told(of)},
        }
        if analysis:
            report["analysis"] = dict(zip(("jacobian_norm", "lid"), analysis, strict=True))
        (folder / "report.json").write_text(json.dumps(report))
        return str(folder)

    return write


L2 = {("minimum_norm", "l2"): [1.0, 0.0, 2.0, np.inf, 4.0]}


@pytest.fixture
def drawn(monkeypatch):
    """What the pictures are given; they are drawn too."""
    given = {}
    for paint in (figures.grid, figures.accuracy, figures.sensitivity, figures.confusion):

        def draw(*arguments, paint=paint):
            given[paint.__name__] = arguments
            return paint(*arguments)

        monkeypatch.setattr(figures, paint.__name__, draw)
    return given


def test_the_same_images_that_all_classify_correctly(finished, drawn, tmp_path, test_set):
    one = finished("one", L2, wrong=[1], analysis=(2.0, 5.0))
    two = finished("two", {("minimum_norm", "l2"): [1.0, 1.5, 1.0, 1.5]}, wrong=[2])
    written = compare.compare(str(tmp_path / "out"), [one, two])
    names = ["comparison.png", "accuracy.png", "confusion.png", "sensitivity.png"]
    assert [file.name for file in written] == names
    assert all(file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for file in written)
    clean, shown, runs, norm = drawn["grid"]
    np.testing.assert_array_equal(clean, test_set.images[:4])
    assert (shown.tolist(), norm) == ([0, 3], "l2")
    assert [run.mean() for run in runs] == [pytest.approx(1.5), pytest.approx(4 / 3)]


def test_the_smallest_of_several_attacks_with_its_image(finished, drawn, tmp_path):
    few = {**L2, ("boundary", "l2"): [0.5, 0.0, 3.0]}
    compare.compare(str(tmp_path), [finished("one", few)])
    [run] = drawn["grid"][2]
    np.testing.assert_array_equal(run.norm, [0.5, 0, 2, np.inf, 4])
    np.testing.assert_allclose(run.image[:, 0, 0, 0], [0.2, 0.1, 0.1, 0.1, 0.1])
    [run], norm = drawn["accuracy"]
    assert norm == "l2"
    assert [(name, list(norms)) for name, norms in run.norms.items()] == [
        ("minimum_norm", [1.0, 0.0, 2.0, np.inf, 4.0]),
        ("boundary", [0.5, 0.0, 3.0]),
    ]


def test_errors_within_the_first_radius_and_what_two_runs_share(
    finished, monkeypatch, tmp_path, test_set
):
    """Within 1.2 the first fools 0, the second 0 and 2; both misclassify 1 without an attack."""
    runs = []
    monkeypatch.setattr(figures, "confusion", lambda found: runs.extend(found) or b"")
    one = finished("one", {("minimum_norm", "l2"): [1.0, 0.0, 2.0, 3.0]}, wrong={1: 7})
    two = finished("two", {("minimum_norm", "l2"): [1.0, 0.0, 1.1, np.inf]}, wrong={1: 8})
    compare.compare(str(tmp_path / "out"), [one, two])
    label = test_set.labels[:4]
    (first, *found), (second, *other) = runs
    after = (label + 1) % 10
    np.testing.assert_array_equal(found, [label, [after[0], 7, label[2], label[3]]])
    np.testing.assert_array_equal(other, [label, [after[0], 8, after[2], label[3]]])
    assert first == "one, within 1.2 in l2"
    # Of the errors 0, 1 and 2 they share 0 and 1; of nine classes those of images 1 and 2 differ.
    assert second.startswith("two, within 1.2 in l2\n67% of errors shared with the first")
    assert "the same in 7 of 9 classes" in second


def test_the_first_norm_that_all_have(finished, drawn, tmp_path):
    both = {**L2, ("minimum_norm", "linf"): [0.1] * N}
    other = {("minimum_norm", "linf"): [0.2] * N}
    compare.compare(str(tmp_path), [finished("one", both), finished("two", other)])
    _, _, runs, norm = drawn["grid"]
    assert norm == "linf"
    np.testing.assert_array_equal(runs[0].norm, np.float32([0.1] * N))


def test_other_images_of_the_same_name_are_refused(finished, tmp_path, test_set):
    folder = Path(finished("one", L2))
    report = json.loads((folder / "report.json").read_text())
    for changed in (False, True):
        labels = np.roll(test_set.labels, changed)
        report["test_digest"] = workdir.digest(test_set.images, labels)
        (folder / "report.json").write_text(json.dumps(report))
        if not changed:
            compare.compare(str(tmp_path / "out"), [str(folder)])
    with pytest.raises(ValueError, match=r"labels of digits have changed since .*one") as error:
        compare.compare(str(tmp_path / "out"), [str(folder)])
    assert "\n" not in str(error.value)


def test_images_that_were_drawn_are_shown_and_not_set_beside_others(
    finished, drawn, tmp_path, test_set
):
    folders = [Path(finished(name, L2)) for name in ("one", "two", "other")]
    for folder, seed in zip(folders, (3, 3, 4), strict=True):
        report = json.loads((folder / "report.json").read_text())
        report["config"]["evaluate"] = values.told(Evaluate(image_seed=seed))
        (folder / "report.json").write_text(json.dumps(report))
    one, two, other = map(str, folders)
    compare.compare(str(tmp_path / "out"), [one, two])
    order = Evaluate(image_seed=3).order(len(test_set.labels))
    np.testing.assert_array_equal(drawn["grid"][0], test_set.images[order[:N]])
    with pytest.raises(ValueError, match=r"image_seed 4 and .*image_seed 3: compare runs on the same"):
        compare.compare(str(tmp_path / "out"), [one, other])


@pytest.mark.parametrize("file", ["report.json", "results.csv", "adversarial.npz"])
@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"attacks": 3}', b"PK\x03\x04", b"a,b\n1,2\n", "cut"]
)
def test_a_damaged_file_is_one_line_that_names_it(finished, tmp_path, file, content):
    folder = Path(finished("one", L2))
    content = (folder / file).read_bytes()[:-200] if content == "cut" else content
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=file) as error:
        compare.compare(str(tmp_path / "out"), [str(folder)])
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_images_that_are_given_no_class_are_no_errors_of_the_last():
    label, given = np.array([0, 1, 2]), np.array([-1, 2, -1])
    np.testing.assert_array_equal(figures.errors(label, given), [[0, 0, 0], [0, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(compare.commonest(label, given), [0, 2, 2])
    assert figures.confusion([("none", label, given)])[:4] == b"\x89PNG"


def test_without_a_measured_run_the_way_to_it_is_told(finished, drawn, tmp_path, capsys):
    written = compare.compare(str(tmp_path), [finished("one", L2)])
    assert [file.name for file in written] == ["comparison.png", "accuracy.png", "confusion.png"]
    assert "measures." in capsys.readouterr().err


def test_a_run_without_a_source_stands_beside_with_the_attack_itself(finished, tmp_path, monkeypatch):
    lines = []
    real = comparison.steps

    def noted(*of, **reach):
        lines.append(of[2].tolist())
        real(*of, **reach)

    monkeypatch.setattr(comparison, "steps", noted)
    own, held = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]
    both = finished("both", {("fgsm", "l2"): own, ("fgsm on held", "l2"): held})
    compare.compare(str(tmp_path), [both, finished("one", {("fgsm", "l2"): own})])
    assert lines == [own, own, held, own]


def test_what_cannot_be_compared_is_refused(finished, tmp_path):
    one, out = finished("one", L2), str(tmp_path / "out")
    linf = finished("linf", {("minimum_norm", "linf"): [0.1] * N})
    mnist = finished("other", L2, of=data.TFDS("mnist"))
    wrong = finished("wrong", L2, wrong=range(N))
    bare = tmp_path / "bare"
    bare.mkdir()
    for workdirs, words in (
        ([one, str(tmp_path / "none")], r"none has no report\.json: run attack\.py"),
        ([one, str(bare)], r"bare has no report\.json: run attack\.py"),
        ([one, linf], r"no norm in common: run attack\.py with --evaluate\.norms"),
        ([one, mnist], r"other is on mnist .* and .*one on digits .*: compare runs on the same"),
        ([one, wrong], r"none of the first 5 images is classified correctly by all"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            compare.compare(out, workdirs)
        assert "\n" not in str(error.value)
    (tmp_path / "one" / "report.json").write_text("{")
    with pytest.raises(ValueError, match=r"report\.json is damaged"):
        compare.compare(out, [one])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"), [([], "usage: "), (["out"], "usage: "), (["out", "none"], "none has no")]
)
def test_the_command_answers_in_one_line(monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(sys, "argv", ["compare", *arguments])
    with pytest.raises(SystemExit) as left:
        command.run(compare.main)
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {words}")
    assert error.count("\n") == 1


def test_what_resists_is_drawn_to_the_end():
    _, [[axis]] = canvas.axes(1, 1, (2, 2))
    for lengths, reach in (([0.5, np.inf], 2.0), ([0.5, 3.0], 2.0), ([0.5, np.inf], None)):
        canvas.steps(axis, np.array([True, True]), np.array(lengths), "", "C0", reach=reach)
    drawn = [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axis.lines]
    assert drawn == [
        ([0, 0.5, 2], [1, 0.5, 0.5]),
        ([0, 0.5, 3], [1, 0.5, 0]),
        ([0, 0.5], [1, 0.5]),
    ]


def test_a_norm_of_the_radius_is_within_it(finished, monkeypatch, tmp_path):
    """8/255 in float32 is above 8/255, which an attack in its ball does not leave."""
    runs = []
    monkeypatch.setattr(figures, "confusion", lambda found: runs.extend(found) or b"")
    eps = 8 / 255
    one = finished("one", {("pgd", "linf"): [np.float32(eps), 1.0]})
    file = tmp_path / "one/report.json"
    report = json.loads(file.read_text())
    report["attacks"][0]["robust_acc"] = {str(eps): 0.5}
    file.write_text(json.dumps(report))
    compare.compare(str(tmp_path / "out"), [one, one.replace("one", "./one")])
    _, label, given = runs[0]
    np.testing.assert_array_equal(given, [(label[0] + 1) % 10, label[1]])
