"""The command line: recipes and variants, the flags of their values, help, and errors in one line."""

import contextlib
import dataclasses
import inspect
import io
import re
import runpy
import sys
import typing
from pathlib import Path

import numpy as np
import pytest

from knn_jax import attacks, certificates, cli, data, defenses, measures, nets
from knn_jax.attacks import Attack
from knn_jax.certificates import Certificate
from knn_jax.cli import flags, knobs, several
from knn_jax.recipe import Evaluate, fit, read
from knn_jax.training import Adversary, Optim

ROOT = Path(__file__).parents[1]
DIGITS = str(ROOT / "configs" / "digits.py")
ASK = str(ROOT / "configs" / "mnist_ask.py")
IDRESNET = str(ROOT / "configs" / "mnist_idresnet.py")
CIFAR = str(ROOT / "configs" / "cifar10_ask.py")
ABOUT = "What it does."
FILES = sorted(ROOT.glob("configs/*.py"))
LINES = 132  # of the help of any recipe at 100 columns
ATTACKS = flags.known_values(attacks, Attack)
CERTIFICATES = flags.known_values(certificates, Certificate)


def parse(*arguments):
    return cli.parse([str(ROOT / "attack.py"), *arguments], ABOUT)


def told(capsys, *arguments):
    """The exit code and all that was printed, boxes and line breaks taken out."""
    with pytest.raises(SystemExit) as left:
        parse(*arguments)
    printed = capsys.readouterr()
    return left.value.code, re.sub(r"[\s│╭╮╰╯─]+", " ", printed.out + printed.err)


def run(monkeypatch, job, *arguments):
    monkeypatch.setattr(sys, "argv", ["attack.py", *arguments])
    cli.main(job, ABOUT)


@pytest.fixture
def script(tmp_path):
    """Writes a recipe file."""

    def write(text):
        file = tmp_path / "recipe.py"
        file.write_text(text)
        return str(file)

    return write


# Recipes, variants, and the flags of what is in them.


def test_overrides_reach_their_knobs_and_no_others():
    before, *_ = parse(DIGITS)
    after, workdir, keeps = parse(
        *(DIGITS, "--workdir", "here", "--optim.peak-lr=0.05", "--classifier.layers", "relu1", "fc"),
        *("--evaluate.norms", "linf", "--evaluate.radii", "0.5", "2", "--no-keep-programs"),
        *("--attacks.minimum-norm.steps", "7"),
    )
    assert (workdir, keeps) == ("here", False)
    assert after == before.but(
        optim=dataclasses.replace(before.optim, peak_lr=0.05),
        classifier=dataclasses.replace(before.classifier, layers=("relu1", "fc")),
        evaluate=dataclasses.replace(before.evaluate, norms=("linf",), radii=(0.5, 2.0)),
        attacks={"minimum_norm": dataclasses.replace(before.attacks["minimum_norm"], steps=7)},
    )


def test_knobs_of_values_within_values():
    before, *_ = parse(ASK)
    after, *_ = parse(ASK, "--defense.net.hidden", "8", "--defense.adversary.eps", "0.2")
    net = dataclasses.replace(before.defense.net, hidden=(8,))
    adversary = dataclasses.replace(before.defense.adversary, eps=0.2)
    assert after.defense == dataclasses.replace(before.defense, net=net, adversary=adversary)
    switched, *_ = parse(ASK, "--attacks.ask.targeted", "--attacks.ask.no-drawn")
    assert (switched.attacks["ask"].targeted, switched.attacks["ask"].drawn) == (True, False)


def test_a_variant_is_named_behind_the_file():
    found, workdir, keeps = parse(f"{ASK}:at30", "--evaluate.images", "5")
    assert (found.name, workdir, keeps) == ("mnist_at30", "runs/mnist_at30", True)
    assert type(found.defense) is defenses.CrossEntropy
    assert found.evaluate.images == 5


def test_a_variant_that_is_none_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"mnist_ask\.py has no variant 'at3' .*'at30'") as error:
        parse(f"{ASK}:at3")
    assert "\n" not in str(error.value)


def test_unknown_recipe():
    with pytest.raises(ValueError, match=r"no recipe configs/none\.py"):
        parse("configs/none.py")


@pytest.mark.parametrize(
    "text",
    [
        "x = 1",
        "def recipe():\n    return {'name': 'digits'}",
        "from knn_jax.recipe import Recipe\ndef recipe() -> Recipe:\n    return {'name': 'digits'}",
    ],
)
def test_a_file_that_is_no_recipe(script, text):
    with pytest.raises(ValueError, match=r"recipe\.py.*Recipe"):
        parse(script(text))


@pytest.mark.parametrize("name", ["a b", "../a", "", "class"])
def test_names_are_those_of_flags_and_files(name):
    recipe, *_ = parse(DIGITS)
    made = {"attacks": attacks.PGD(), "certificates": certificates.Margin()}
    made["measures"] = measures.LocalDimension(5)
    for kind, value in made.items():
        with pytest.raises(ValueError, match=rf"{kind}\[.*letters"):
            recipe.but(**{kind: {name: value}})


@pytest.mark.parametrize(
    ("typo", "flag"),
    [
        ("--optim.peek-lr", "--optim.peak-lr"),
        ("--attacks.minimum-norm.step", "--attacks.minimum-norm.steps"),
        ("--classifier.kk", "--classifier.k"),
        ("--workdri", "--workdir"),
        ("--attacks.pgd.steps", "--attacks.minimum-norm.steps"),  # digits.py has no PGD
        ("--optim.bath-size=5", "--optim.batch-size"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_name(monkeypatch, capsys, typo, flag):
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, lambda *_: pytest.fail("it was run"), DIGITS, typo, "3")
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {typo.partition('=')[0]} is no flag of attack.py {DIGITS}: ")
    assert f"{flag}?" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--attacks.minimum-norm.steps", "many"), ["steps", "many"]),
        (("--optim.optimizer", "sgdd"), ["sgdd", "adam", "sgd"]),
        (("--evaluate.norms", "l3"), ["l3", "l2", "linf"]),
    ],
)
def test_an_impossible_value_is_answered_with_what_is_possible(capsys, arguments, words):
    code, text = told(capsys, DIGITS, *arguments)
    assert code == 2
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("file", "arguments", "words"),
    [
        (ASK, ("--attacks.pgd.steps", "0"), "attacks.pgd: steps=0: "),
        (ASK, ("--defense.adversary.eps", "-1"), "defense.adversary: eps=-1.0: "),
        (IDRESNET, ("--defense.net.dim", "0"), "defense.net: dim=0: "),
        (DIGITS, ("--optim.batch-size", "0"), "optim: batch_size=0: "),
        (DIGITS, ("--certificates.voronoi.own", "0"), "certificates.voronoi: own=0: "),
        (DIGITS, ("--evaluate.trials", "0"), "evaluate: trials=0: "),
    ],
)
def test_what_a_value_refuses_is_one_line_with_its_place(monkeypatch, capsys, file, arguments, words):
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, lambda *_: pytest.fail("it was run"), file, *arguments)
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {words}")
    assert error.count("\n") == 1


# Attacks and certificates by name.


def test_all_attacks_and_certificates_are_known_by_the_names_of_their_functions():
    assert {"pgd", "carlini_wagner", "deepfool", "lbfgs", "minimum_norm", "adv_knn"} <= set(ATTACKS)
    assert {"exact", "margin", "smoothing", "voronoi"} <= set(CERTIFICATES)
    functions = {name for name in attacks.__all__ if name.islower()} & set(dir(attacks))
    named = functions - {"information", "tune", "judge", "imitate"}
    assert named <= set(ATTACKS)


def test_any_attack_and_certificate_of_the_library_can_be_named():
    own, *_ = parse(DIGITS)
    found, *_ = parse(DIGITS, "--attack", *ATTACKS, "--certificate", *CERTIFICATES)
    assert found.attacks == {name: kind() for name, kind in ATTACKS.items()} | own.attacks
    assert found.certificates == {n: kind() for n, kind in CERTIFICATES.items()} | own.certificates
    assert found.certificates["voronoi"].other == 1024  # the recipe's own knobs


def test_a_named_attack_has_its_flags_and_no_other():
    arguments = ("--attack", "carlini_wagner", "--attacks.carlini-wagner.steps", "3")
    found, *_ = parse(DIGITS, *arguments)
    assert found.attacks == {"carlini_wagner": attacks.CarliniWagner(steps=3)}
    found, *_ = parse(DIGITS, "--attack", "--certificate=margin")
    assert (found.attacks, list(found.certificates)) == ({}, ["margin"])


@pytest.mark.parametrize(
    ("kind", "other", "left", "knob"),
    [("attack", "pgd", "minimum_norm", "steps"), ("certificate", "margin", "voronoi", "own")],
)
def test_a_flag_of_a_method_that_was_left_out_is_no_typo(kind, other, left, knob):
    flag = f"--{kind}s.{left}.{knob}".replace("_", "-")
    with pytest.raises(ValueError, match=f"{flag}: --{kind} .*{left}") as error:
        parse(DIGITS, f"--{kind}", other, flag, "5")
    assert "\n" not in str(error.value)
    parse(DIGITS, f"--{kind}", other, left, flag, "5")


@pytest.mark.parametrize(
    ("kind", "name", "near"), [("attack", "pdg", "pgd"), ("certificate", "voronio", "voronoi")]
)
def test_a_method_that_is_none_is_answered_with_the_nearest(kind, name, near):
    with pytest.raises(ValueError, match=f"--{kind} {name}: ") as error:
        parse(DIGITS, f"--{kind}", name)
    assert repr(near) in str(error.value)
    assert "\n" not in str(error.value)


# Data from a path, and a paper's figures.


def test_data_of_a_path_take_the_place_of_the_recipes(tmp_path):
    file = tmp_path / "some.npz"
    np.savez(file, x_train=0)
    found, *_ = parse(ASK, "--data-path", str(file), "--data.valid-fraction", "0.3")
    assert found.data == data.NPZ(str(file), valid_fraction=0.3, train_images=10_000)
    found, *_ = parse(ASK, "--data-path", str(tmp_path))
    assert type(found.data) is data.Folder
    with pytest.raises(ValueError, match="no file or folder"):
        parse(ASK, "--data-path", str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["--evaluate.images", "5", "--evaluate.trials", "2"], True),
        (["--attack", "pgd", "--attacks.pgd.steps", "3"], True),
        (["--classifier.layers", "conv4"], True),
        (["--data.name", "cifar100"], True),  # where images are from is not known of a file either
        (["--defense.net.hidden", "7"], False),
        (["--data.train-images", "2000"], False),
        (["--optim.epochs", "3"], False),
        (["--optim.epochs", "0"], False),
        (["--optim.batch-size", "64"], False),
        (["--optim.optimizer", "adam"], False),
        (["--optim.drops", "2"], False),
        (["--optim.augment", "none"], False),
        (["--optim.seed", "1", "--data.split-seed", "1", "--data.data-dir", "here"], True),
        (["--defense.weights", "theirs.npz"], True),
        (["--defense.weights", "theirs.npz", "--optim.epochs", "3"], True),
        (["--defense.weights", "theirs.npz", "--data.train-images", "2000"], False),
        (["--classifier.rows", "1000"], False),
        (["--defense.weight", "2"], False),
        (["--classifier.k", "7"], False),
    ],
)
def test_a_papers_figures_stay_with_what_they_are_of(arguments, kept):
    recipe, *_ = parse(CIFAR, *arguments)
    assert bool(recipe.paper.figures) == kept
    assert recipe.paper.title


# Help.


@pytest.fixture(scope="module")
def pages():
    """The help of every recipe, as it stands at 100 columns."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "100")
        for file in FILES:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as left:
                parse(str(file), "--help")
            assert left.value.code == 0
            found[file.stem] = printed.getvalue()
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_recipe_is_parsed_as_it_stands_and_has_a_short_page(file, pages):
    recipe, _ = read(str(file))
    assert recipe.name == file.stem
    assert f"--workdir runs/{file.stem}" in pages[file.stem]
    lines = pages[file.stem].splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) < (80 if file.stem == "digits" else LINES)
    assert sum(line.startswith("--attacks.") for line in lines) == sum(
        bool(knobs.flags(attack)) for attack in recipe.attacks.values()
    )


def of_page(text):
    """The knobs of a page by their flags: what each is now and what it means."""
    found, place, flag = {}, "", ""
    for line in text.partition("\n\n")[2].splitlines():
        if title := re.match(r"--(\S+\.)KNOB ", line):
            place = title[1]
        elif line.startswith(" " * 10):
            found[flag] += " " + line.strip()
        else:
            name, _, rest = line.strip().removeprefix("--").partition(" ")
            flag = f"--{'' if line.startswith('--') else place}{name.replace('[no-]', '')}"
            found[flag] = rest
    return found


@pytest.mark.parametrize("name", ["digits", "mnist_ask", "cifar10_racnn"])
def test_the_page_has_each_flag_and_explains_it(pages, name):
    recipe, _ = read(str(ROOT / "configs" / f"{name}.py"))
    known = {f"--{name}" for name, _ in knobs.listed(knobs.flags(recipe))}
    own = {"--workdir", "--data-path", "--attack", "--certificate", "--keep-programs"}
    own |= {f"--{name}" for name, *_ in several.FLAGS}
    shown = of_page(pages[name])
    assert set(shown) == known | own
    assert all(len(re.findall(r"[a-z]{3,}", text)) >= 2 for text in shown.values())


KINDS = (Attack, Certificate, measures.Measure, defenses.Defense, nets.Net, data.Data, fit.Classifier)


def below(kind):
    """A class and all that are made of it."""
    return {kind}.union(*(below(part) for part in kind.__subclasses__()))


VALUES = sorted(
    {part for kind in KINDS for part in below(kind) if part.__module__.startswith("knn_jax.")}
    | {Adversary, Evaluate, Optim},
    key=lambda kind: (kind.__module__, kind.__name__),
)


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: f"{kind.__module__[8:]}.{kind.__name__}")
def test_every_knob_that_a_flag_can_say_has_a_text(kind):
    """Without one it would have no flag."""
    texts, hints = knobs.documented(kind), typing.get_type_hints(kind)
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    plain = {field.name for field in fields if knobs.is_plain(hints[field.name])}
    assert plain <= set(texts)
    assert knobs.first_sentence(inspect.getdoc(kind))


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Steps. Of the outer loop.", "Steps"),
        ("Of Wang et al. 2021, eq. 2\n and more. Then.", "Of Wang et al. 2021, eq. 2 and more"),
        ("As `a`. (Not b.)", "As `a`"),
        ("None: 2.5 / steps.\n\nMore.", "None: 2.5 / steps"),
        ("", ""),
    ],
)
def test_the_first_sentence_of_a_text(text, first):
    assert knobs.first_sentence(text) == first


@pytest.mark.parametrize(("arguments", "code"), [((), 2), (("--help",), 0), (("-h",), 0)])
def test_without_a_recipe_it_lists_them(capsys, arguments, code):
    left, text = told(capsys, *arguments)
    assert left == code
    assert "configs/digits.py" in text
    assert "attack.py RECIPE.py" in text


# The scripts.


def test_what_the_job_is_given(monkeypatch):
    given, kept = [], []
    monkeypatch.setattr(flags.programs, "keep", lambda: kept.append(True))
    asked = DIGITS, "--workdir", "w", "--classifier.k", "7"
    for more in ([], ["--no-keep-programs"]):
        run(monkeypatch, lambda *a: given.append(a), *asked, *more)
    assert [(recipe.classifier.k, workdir) for recipe, workdir in given] == [(7, "w")] * 2
    assert kept == [True]


def test_a_value_error_is_one_line_and_exit_code_2(monkeypatch, capsys):
    def job(recipe, workdir):
        raise ValueError("k=75 neighbours asked of a bank of 50 rows")

    monkeypatch.setattr(flags.programs, "keep", lambda: None)
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

    monkeypatch.setattr(flags.programs, "keep", lambda: None)
    with pytest.raises(KeyError, match="a bug"):
        run(monkeypatch, job, DIGITS)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("train", ["--optim.stopping-eps", "-1"], "optim: stopping_eps=-1.0: "),
        ("attack", ["--classifier.k", "100000"], "k=100000 neighbours asked of a bank of 1293 rows"),
        ("certify", ["--classifier.k", "100000"], "k=100000 neighbours asked of a bank of 1293 rows"),
        ("attack", ["--attack", "--certificate"], "the recipe has neither attacks nor certificates"),
        ("certify", ["--certificate"], "the recipe has no certificates"),
    ],
)
def test_the_scripts_refuse_in_one_line(tmp_path, monkeypatch, capsys, name, arguments, words):
    workdir, script = tmp_path / "run", str(ROOT / f"{name}.py")
    given = [script, DIGITS, "--no-keep-programs", "--workdir", str(workdir), *arguments]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(SystemExit) as left:
        runpy.run_path(script, run_name="__main__")
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {words}")
    assert error.count("\n") == 1
    assert not workdir.exists()
