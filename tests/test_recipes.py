"""Every recipe and variant in configs/: it can be made, told, and run on data of the right shape."""

import ast
import dataclasses
import functools
import inspect
import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from knn_jax import attacks, data, defenses, nets
from knn_jax.cli import run
from knn_jax.data import Dataset, Split
from knn_jax.recipe import Paper, Recipe, fit, papers, read, same_system, variants
from knn_jax.training import Adversary

ROOT = Path(__file__).parents[1]
FILES = sorted(ROOT.glob("configs/*.py"))
EVERY = [
    (file, name)
    for file in FILES
    for name in variants(runpy.run_path(str(file)))
]  # fmt: skip
IDS = [f"{file.stem}:{name}" for file, name in EVERY]
PAPERS = [paper for paper in vars(papers).values() if isinstance(paper, Paper)]
SIDES = {"digits": 8, "mnist": 28, "imagenet2012": 128, "imagenette/160px-v2": 128}
CLASSES = {"cifar100": 100, "imagenet2012": 1000}


@functools.cache
def made(file, name):
    return read(f"{file}:{name}" if name != "recipe" else str(file))[0]


def dataset(recipe):
    """As large as the set of that name, without its images."""
    name = recipe.data.name
    classes, side = CLASSES.get(name, 10), SIDES.get(name, 32)
    channels = 1 if name in ("digits", "mnist") else 3

    def split(count):
        image = np.zeros((1, side, side, channels), np.uint8)
        labels = np.arange(count, dtype=np.int32) % classes
        return Split(np.broadcast_to(image, (count, *image.shape[1:])), labels)

    train = recipe.data.train_images or (1000 if name == "digits" else 20_000)
    tests = {"digits": 360, "imagenette/160px-v2": 3925}.get(name, 10_000)
    extra = split(100) if getattr(recipe.data, "candidates", "") else None
    return Dataset(split(train), split(classes), split(tests), classes, extra)


@pytest.mark.parametrize(("file", "name"), EVERY, ids=IDS)
def test_it_is_made_and_tells_itself_as_json(file, name):
    recipe = made(file, name)
    told = recipe.told()
    assert json.loads(json.dumps(told)) == told
    assert made.__wrapped__(file, name) == recipe
    assert (recipe.name == file.stem) is (name == "recipe")
    assert recipe.attacks
    doc = runpy.run_path(str(file))[name].__doc__
    assert doc
    assert runpy.run_path(str(file))["__doc__"]


def test_every_variant_has_a_workdir_of_its_own():
    names = [made(*one).name for one in EVERY]
    assert sorted(set(names)) == sorted(names)


def system(one):
    """What of a recipe takes long to check."""
    recipe = made(*one)
    return type(recipe.defense), recipe.defense.net, type(recipe.classifier), recipe.data.name


SYSTEMS = {system(one): one for one in reversed(EVERY)}  # each once


@pytest.mark.parametrize(("file", "name"), SYSTEMS.values())
def test_data_of_the_right_shape_pass_its_check(file, name):
    recipe = made(file, name)
    files = {field.name for field in dataclasses.fields(recipe.defense)} & {
        "weights",
        "retriever_weights",
    }
    recipe = recipe.but(defense=dataclasses.replace(recipe.defense, **dict.fromkeys(files, "")))
    run.check(recipe, dataset(recipe))


def knobs(kind):
    """The fields of a class and what stands below each, its own and those of its bases."""
    for base in kind.__mro__:
        if dataclasses.is_dataclass(base):
            [made] = ast.parse(inspect.getsource(base).lstrip()).body
            lines = made.body  # pyright: ignore[reportAttributeAccessIssue]
            for line, after in zip(lines, [*lines[1:], None], strict=True):
                if isinstance(line, ast.AnnAssign) and "ClassVar" not in ast.unparse(line.annotation):
                    told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                    yield line.target.id, after.value.value if told else ""


def within(part):
    """The classes of the values of a recipe."""
    if dataclasses.is_dataclass(part):
        fields = (getattr(part, field.name) for field in dataclasses.fields(part))
        return {type(part)}.union(*map(within, fields))
    parts = part.values() if isinstance(part, dict) else part if isinstance(part, tuple) else ()
    return set().union(*map(within, parts))


def test_every_knob_of_every_recipe_is_explained():
    kinds = set().union(*(within(made(*one)) for one in EVERY)) - {Recipe, Paper}
    assert len(kinds) > 40
    bare = [
        f"{kind.__name__}.{name}"
        for kind in kinds
        for name, text in knobs(kind)
        if name != "_" and not text
    ]
    assert bare == []


def test_every_method_says_whom_it_is_of():
    for recipe in (made(*one) for one in EVERY):
        beside = recipe.attacks, recipe.certificates, recipe.measures
        for value in (recipe.defense, *(one for part in beside for one in part.values())):
            assert value.cites


# Papers and their figures.

FIGURE = re.compile(r"clean_acc|mean_l2|mean_radius|(acc_l2|acc_linf|cert)_([\d.]+)")


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.authors)
def test_a_paper_is_cited(paper):
    assert paper.title
    assert paper.authors
    assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", paper.link) or paper.year is None
    assert not paper.figures


def near(radius):
    return lambda other: abs(other - radius)


@pytest.mark.parametrize(("file", "name"), EVERY, ids=IDS)
def test_figures_are_of_a_known_paper_and_at_radii_that_are_measured(file, name):
    recipe = made(file, name)
    if recipe.paper is None:
        return
    assert recipe.paper.reports({}) in PAPERS
    asked = recipe.evaluate
    for of, figures in recipe.paper.figures.items():
        assert of.partition(", ")[2] in {"", *(one.label for one in run.runs(recipe))}
        for figure, number in figures.items():
            [kind, radius] = FIGURE.fullmatch(figure).groups()
            radii = asked.radii_linf if kind == "acc_linf" else asked.radii
            if name == "recipe" and radius:
                assert float(radius) == pytest.approx(min(radii, key=near(float(radius))), abs=6e-5)
            assert number >= 0
            assert number <= 1 or figure.startswith("mean")


def test_a_recipes_own_label_has_its_papers_figures():
    for recipe in (made(file, "recipe") for file in FILES):
        if recipe.paper and recipe.paper.figures:
            assert recipe.classifier.label(recipe.defense) in recipe.paper.figures


def changed(recipe, part, **knobs):
    return recipe.but(**{part: dataclasses.replace(getattr(recipe, part), **knobs)})


SAME = [
    ("data", {"split_seed": 3}),
    ("optim", {"seed": 3}),
    ("classifier", {"layers": ("relu1",)}),
    ("evaluate", {"images": 7}),
]
OTHER = [
    ("data", {"train_images": 300}),
    ("defense", {"adversary": Adversary("linf", 0.1)}),
    ("defense", {"net": nets.mnist_convnet()}),
    ("optim", {"epochs": 2}),
    ("classifier", {"k": 3}),
]


@pytest.mark.parametrize(("part", "knobs"), SAME)
def test_what_leaves_the_system_as_it_is_keeps_a_papers_figures(recipe, part, knobs):
    assert same_system(recipe, changed(recipe, part, **knobs))


@pytest.mark.parametrize(("part", "knobs"), OTHER)
def test_another_system_has_no_figures_of_the_paper(recipe, part, knobs):
    assert not same_system(recipe, changed(recipe, part, **knobs))


def test_other_values_in_the_system_or_beside_it(recipe):
    assert same_system(recipe, recipe.but(attacks={"pgd": attacks.PGD()}, certificates={}))
    for name in "digits.npz", "mnist.npz":
        of = recipe.but(data=data.TFDS("mnist")) if name == "mnist.npz" else recipe
        assert same_system(of, recipe.but(data=data.NPZ(name)))
    assert not same_system(recipe, recipe.but(name="other"))
    assert not same_system(recipe, recipe.but(classifier=fit.Network()))
    assert not same_system(recipe, recipe.but(defense=defenses.Rotation(recipe.defense.net)))


def test_given_weights_are_of_any_schedule(recipe):
    """They are those of the paper, whatever training would have been."""
    given = changed(recipe, "defense", weights="authors.npz")
    assert same_system(given, changed(given, "optim", epochs=70))
    assert same_system(changed(recipe, "optim", epochs=70), given)


def test_figures_may_be_left_out(recipe):
    assert recipe.unreported() == recipe
    cited = recipe.but(paper=papers.WANG.reports({"relu3": {"clean_acc": 0.9}}))
    assert cited.unreported().paper == papers.WANG
    assert cited.paper.told() == cited.unreported().paper.told()
    assert set(cited.paper.told()) == {"title", "authors", "year", "link"}


@pytest.mark.parametrize("kind", ["attack", "certificate", "measure"])
def test_what_is_no_value_of_its_kind_is_refused(recipe, kind):
    wrong = recipe.but(**{f"{kind}s": {}})
    getattr(wrong, f"{kind}s")["pgd"] = attacks.pgd  # the function
    with pytest.raises(ValueError, match=rf"{kind}s\['pgd'\] is no {kind}"):
        wrong.__post_init__()  # the tests' own check of types would come before


# Files that are read.


@pytest.fixture
def write(tmp_path):
    """Writes a recipe's file."""

    def file(text):
        place = tmp_path / "mine.py"
        place.write_text(text)
        return str(place)

    return file


MINE = """\
'''Mine.

indented
'''
from configs_digits import recipe as base
from knn_jax.recipe import Recipe


def recipe() -> Recipe:
    return base()


def smaller() -> Recipe:
    return base().but(name="smaller")


def _hidden() -> Recipe:
    return base()


def number() -> int:
    return 3
"""


@pytest.fixture
def mine(write, tmp_path, monkeypatch):
    """A recipe of one's own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "configs_digits.py").write_text((ROOT / "configs" / "digits.py").read_text())
    return write(MINE)


def test_a_recipe_or_its_variant_is_read_with_what_the_file_says(mine):
    recipe, text = read(mine)
    assert (recipe.name, text) == ("digits", "Mine.\n\nindented")
    assert read(f"{mine}:smaller")[0].name == "smaller"
    assert set(variants(runpy.run_path(mine))) == {"recipe", "smaller"}


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("smalle", r"no variant 'smalle' \(did you mean 'smaller'\?\): it has .*smaller"),
        ("_hidden", r"no variant '_hidden'"),
        ("number", r"no variant 'number'"),
    ],
)
def test_a_variant_that_there_is_not_is_refused_with_the_nearest(mine, variant, words):
    with pytest.raises(ValueError, match=words) as error:
        read(f"{mine}:{variant}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "recipe = 3\n", "def recipe():\n    return 3\n"])
def test_a_file_without_a_recipe_is_refused(write, text):
    with pytest.raises(ValueError, match=r"mine\.py is no recipe"):
        read(write(text))


def test_a_recipe_that_gives_none_is_refused(write):
    text = "from knn_jax.recipe import Recipe\n\n\ndef recipe() -> Recipe:\n    return 3\n"
    with pytest.raises(ValueError, match="gives no Recipe"):
        read(write(text))


RAISES = "from knn_jax.recipe import Recipe\n\n\ndef recipe() -> Recipe:\n    {}\n"


@pytest.mark.parametrize(
    ("text", "line", "error"),
    [
        ("x = 1\nx = 1 / 0\n", 2, ZeroDivisionError),
        ("x = 1\n\ndef recipe(:\n", 3, SyntaxError),
        ("import json\n\njson.loads('{')\n", 3, json.JSONDecodeError),
        ("from knn_jax import attacks\nattacks.PGD(steps=0)\n", 2, ValueError),
        (RAISES.format("raise KeyError('one\\ntwo')"), 5, KeyError),
    ],
)
def test_an_error_in_the_file_is_one_line_with_its_place(write, text, line, error):
    file = write(text)
    with pytest.raises(ValueError, match=f"line {line}: {error.__name__}: ") as raised:
        read(file)
    assert str(raised.value).startswith(f"{file}, ")
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value.__cause__, error)


def test_a_file_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is no recipe .*mine\.py"):
        read(str(tmp_path / "mine.py"))
