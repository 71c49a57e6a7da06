"""The command line: recipes, knobs, help, and errors in one line."""

import contextlib
import dataclasses
import io
import re
import runpy
import sys
from pathlib import Path

import pytest

from knn_jax import cli, config

ROOT = Path(__file__).parents[1]
DIGITS = str(ROOT / "configs" / "digits.py")
SECTIONS = [f for f in dataclasses.fields(config.Config) if dataclasses.is_dataclass(f.type)]
KNOBS = [f"{s.name}.{f.name}" for s in SECTIONS for f in dataclasses.fields(s.type)]


def parse(*arguments):
    return cli.parse([str(ROOT / "attack.py"), *arguments], "What it does.")


def told(capsys, *arguments):
    """The exit code and all that was printed, boxes and line breaks taken out."""
    with pytest.raises(SystemExit) as left:
        parse(*arguments)
    printed = capsys.readouterr()
    return left.value.code, re.sub(r"[\s│╭╮╰╯─]+", " ", printed.out + printed.err)


def run(monkeypatch, job, *arguments):
    monkeypatch.setattr(sys, "argv", ["attack.py", *arguments])
    cli.main(job, "What it does.")


@pytest.fixture
def script(tmp_path):
    """Writes a recipe file."""

    def write(text):
        file = tmp_path / "recipe.py"
        file.write_text(text)
        return str(file)

    return write


@pytest.mark.parametrize("file", sorted(ROOT.glob("configs/*.py")), ids=lambda file: file.stem)
def test_every_recipe_is_parsed_as_it_stands(file):
    recipe, workdir, keeps = parse(str(file))
    assert keeps
    assert recipe.name == file.stem
    assert type(recipe) is config.Config
    assert workdir == f"runs/{file.stem}"


def test_overrides_reach_their_knobs_and_no_others():
    before, *_ = parse(DIGITS)
    after, workdir, _ = parse(
        *(DIGITS, "--workdir", "here", "--optim.peak-lr", "0.05", "--classifier.layers", "relu1", "fc"),
        *("--attack.norms", "linf", "--attack.radii", "0.5", "2"),
    )
    assert workdir == "here"
    assert after == dataclasses.replace(
        before,
        optim=dataclasses.replace(before.optim, peak_lr=0.05),
        classifier=dataclasses.replace(before.classifier, layers=("relu1", "fc")),
        attack=dataclasses.replace(before.attack, norms=("linf",), radii=(0.5, 2.0)),
    )


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["--data.name", "other.npz", "--attack.images", "5", "--ball.trials", "2"], True),
        (["--classifier.layers", "conv4"], True),
        (["--name", "other"], False),
        (["--data.name", "cifar100"], False),
        (["--net.name", "mnist_vgg"], False),
        (["--net.no-shared"], False),
        (["--data.train-images", "2000"], False),
        (["--data.valid-fraction", "0.5"], False),
        (["--optim.epochs", "3"], False),
        (["--optim.epochs", "0"], False),
        (["--optim.batch-size", "64"], False),
        (["--optim.optimizer", "adam"], False),
        (["--optim.drops", "2"], False),
        (["--optim.augment", "none"], False),
        (["--optim.seed", "1", "--data.split-seed", "1", "--data.data-dir", "here"], True),
        (["--net.weights", "theirs.npz"], True),
        (["--net.weights", "theirs.npz", "--optim.epochs", "3"], True),
        (["--net.weights", "theirs.npz", "--data.train-images", "2000"], False),
        (["--classifier.bank-rows", "1000"], False),
        (["--classifier.name", "network"], False),
        (["--defense.name", "basic"], False),
        (["--classifier.k", "7"], False),
        (["--classifier.top", "2"], False),
        (["--ball.layers", "conv3"], False),
    ],
)
def test_a_papers_figures_stay_with_what_they_are_of(arguments, kept):
    recipe, *_ = parse(str(ROOT / "configs" / "cifar10_ask.py"), *arguments)
    assert bool(recipe.reported) == kept


@pytest.mark.parametrize(
    ("typo", "flag"),
    [
        ("--optim.peek-lr", "--optim.peak-lr"),
        ("--attack.step", "--attack.steps"),
        ("--classifier.kk", "--classifier.k"),
        ("--workdri", "--workdir"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_name(capsys, typo, flag):
    code, text = told(capsys, DIGITS, typo, "3")
    assert code == 2
    assert typo in text
    assert f"{flag} " in text.partition("Perhaps you meant")[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--attack.steps", "many"), ["--attack.steps", "many"]),
        (("--net.name", "minst"), ["minst", "mnist", "digits", "pixels"]),
        (("--attack.norms", "l3"), ["l3", "l2", "linf"]),
    ],
)
def test_an_impossible_value_is_answered_with_what_is_possible(capsys, arguments, words):
    code, text = told(capsys, DIGITS, *arguments)
    assert code == 2
    for word in words:
        assert word in text


@pytest.fixture(scope="module")
def explained():
    """The help of a recipe's knobs, without boxes, line breaks and the second flag of switches."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as left:
        parse(DIGITS, "--help")
    assert left.value.code == 0
    return re.sub(r", --[a-z.]+no-\S+", "", re.sub(r"[\s│╭╮╰╯─]+", " ", printed.getvalue()))


@pytest.mark.parametrize("knob", KNOBS)
def test_help_explains_each_knob(explained, knob):
    flag = f"--{knob.replace('_', '-')} "
    assert flag in explained
    after = explained.partition(flag)[2].partition(" --")[0]
    help_text, _, default = after.partition("(default:")
    assert default, "the default is shown"
    words = re.sub(r"^(\{.*?\}|\[.*?\]\]|[A-Z]+)\s", "", help_text.strip() + " ").split()
    assert words, f"{knob} is not explained"


def test_help_says_what_the_recipe_is(explained):
    assert "What it does." in explained
    assert "scikit-learn's 1,797 digits" in explained


@pytest.mark.parametrize(("arguments", "code"), [((), 2), (("--help",), 0), (("-h",), 0)])
def test_without_a_recipe_it_lists_them(capsys, arguments, code):
    left, text = told(capsys, *arguments)
    assert left == code
    assert "configs/digits.py" in text
    assert "usage: attack.py RECIPE.py" in text


def test_unknown_recipe():
    with pytest.raises(ValueError, match=r"no recipe configs/none\.py"):
        parse("configs/none.py")


@pytest.mark.parametrize("text", ["x = 1", "def get_config():\n    return {'name': 'digits'}"])
def test_a_file_that_is_no_recipe(script, text):
    with pytest.raises(ValueError, match=r"recipe\.py is no recipe.*get_config"):
        parse(script(text))


def test_what_the_job_is_given(monkeypatch):
    given = []
    run(monkeypatch, lambda *a: given.append(a), DIGITS, "--workdir", "w", "--classifier.k", "7")
    [(recipe, workdir)] = given
    assert (recipe.classifier.k, workdir) == (7, "w")


def test_a_value_error_is_one_line_and_exit_code_2(monkeypatch, capsys):
    def job(recipe, workdir):
        raise ValueError("k=75 neighbours asked of a bank of 50 rows")

    with pytest.raises(SystemExit) as left:
        run(monkeypatch, job, DIGITS)
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: k=75 neighbours asked of a bank of 50 rows\n"
    monkeypatch.setenv("KNN_JAX_TRACEBACK", "1")  # for whoever mends knn_jax itself
    with pytest.raises(ValueError, match="k=75"):
        run(monkeypatch, job, DIGITS)


def test_an_error_of_ours_is_not_hidden(monkeypatch):
    def job(recipe, workdir):
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        run(monkeypatch, job, DIGITS)


@pytest.mark.parametrize("name", ["train", "attack", "certify"])
def test_the_scripts_refuse_in_one_line(tmp_path, monkeypatch, capsys, name):
    workdir, script = tmp_path / "run", str(ROOT / f"{name}.py")
    arguments = [script, DIGITS, "--workdir", str(workdir), "--classifier.k", "100000"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as left:
        runpy.run_path(script, run_name="__main__")
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: k=100000 neighbours asked of a bank of 1293 rows\n"
    assert not workdir.exists()
