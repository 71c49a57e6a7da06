"""The layout of the house, read from the sources: floors, files, and what a value says of itself."""

import ast
import dataclasses
import graphlib
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import knn_jax
from knn_jax import attacks, certificates, defenses, measures

ROOT = Path(knn_jax.__file__).parent
# From the ground: a room may import those below it, and no other.
FLOORS = (
    ("values", "mesh", "display", "balls"),
    ("workdir",),
    ("neighbors",),
    ("losses", "data"),
    ("classifiers", "nets"),
    ("training",),
    ("attacks", "certificates", "measures"),
    ("defenses",),
    ("recipe",),
    ("evaluation",),
    ("report",),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
LINES = 250


def room(path):
    """The module or package of knn_jax that a file belongs to: nets for nets/vgg.py."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(path):
    """The dotted names of all that a file imports, also inside functions."""
    package = ("knn_jax", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def own(path):
    """The rooms of knn_jax that a file imports, its own included."""
    names = (name.split(".") for name in imported(path))
    return {name[1] for name in names if name[0] == "knn_jax" and len(name) > 1}


def relative(path):
    return str(path.relative_to(ROOT))


def test_every_room_has_a_floor_and_they_are_few():
    assert {room(path) for path in FILES} == set(FLOOR)
    assert len(FLOOR) < 20


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_go_downwards(path):
    """To the same room or a lower floor, without exceptions."""
    here = room(path)
    assert not {there for there in own(path) - {here} if FLOOR[there] >= FLOOR[here]}


def test_no_import_between_files_is_circular():
    graph = {}
    for path in FILES:
        known = {".".join(("knn_jax", *file.relative_to(ROOT).with_suffix("").parts)) for file in FILES}
        here = ".".join(("knn_jax", *path.relative_to(ROOT).with_suffix("").parts))
        names = {name if name in known else name.rpartition(".")[0] for name in imported(path)}
        graph[here] = (names & known) - {here}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(FILES)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_only_nets_imports_flax(path):
    assert room(path) == "nets" or not any(name.split(".")[0] == "flax" for name in imported(path))


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_file_holds_one_idea_and_says_which(path):
    text = path.read_text()
    assert len(text.splitlines()) <= LINES
    assert ast.get_docstring(ast.parse(text))
    assert path.stem not in ("utils", "util", "helpers", "common", "misc")


# Rooms that must stay narrow, since users' own code or the search hang on them.
@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("values", set()),
        ("mesh", set()),
        ("balls", set()),
        ("display", set()),
        ("workdir", {"display"}),
        ("neighbors", {"balls", "mesh", "values"}),
        ("losses", {"neighbors"}),
        ("classifiers", {"losses", "mesh", "neighbors", "values"}),
        ("data", {"values", "workdir"}),
        ("nets", {"losses", "neighbors", "values", "workdir"}),
        (
            "training",
            {"balls", "data", "display", "losses", "mesh", "neighbors", "nets"} | {"values", "workdir"},
        ),
        ("attacks", {"balls", "classifiers", "losses", "neighbors", "values"}),
        ("certificates", {"balls", "classifiers", "losses", "neighbors", "values"}),
    ],
)
def test_what_each_room_may_know(name, allowed):
    known = set().union(*(own(path) for path in FILES if room(path) == name))
    assert known - {name} <= allowed


def below(kind):
    """All values that are made of a class."""
    found = set(kind.__subclasses__())
    return found.union(*(below(part) for part in found))


for _, module, _ in pkgutil.walk_packages(knn_jax.__path__, "knn_jax."):
    if not module.endswith("__main__"):
        importlib.import_module(module)
METHODS = sorted(
    {
        kind
        for base in (attacks.Attack, certificates.Certificate, measures.Measure, defenses.Defense)
        for kind in below(base)
        if kind.__module__.startswith("knn_jax.")
        and dataclasses.is_dataclass(kind)
        and not inspect.isabstract(kind)
    },
    key=lambda kind: (kind.__module__, kind.__name__),
)


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: f"{room_of(kind)}.{kind.__name__}")
def test_a_method_cites_its_source(kind):
    """Authors and year; of what is in no paper, that."""
    assert isinstance(vars(kind).get("cites"), str)
    assert kind.cites


def room_of(kind):
    return kind.__module__.split(".")[1]


def test_no_paper_is_called_by_a_number():
    numbered = re.compile(r"\bpapers? [1-5]\b", re.IGNORECASE)
    assert not [path for path in FILES if numbered.search(" ".join(path.read_text().split()))]


def test_the_types_are_told():
    assert (ROOT / "py.typed").exists()


BENCHMARKS = ROOT.parent / "benchmarks"


@pytest.mark.parametrize("path", sorted(BENCHMARKS.rglob("*.py")), ids=lambda path: path.name)
def test_benchmarks_find_in_each_other_what_they_import(path):
    """They are run by hand only, and with packages that the tests do not have."""
    for node in ast.walk(ast.parse(path.read_text())):
        beside = BENCHMARKS / f"{str(getattr(node, 'module', None)).replace('.', '/')}.py"
        if isinstance(node, ast.ImportFrom) and beside.exists():
            body = ast.parse(beside.read_text()).body
            there = {getattr(made, "name", None) for made in body}
            targets = [t for made in body if isinstance(made, ast.Assign) for t in made.targets]
            targets += [made.target for made in body if isinstance(made, ast.AnnAssign)]
            there |= {target.id for target in targets if isinstance(target, ast.Name)}
            assert {alias.name for alias in node.names} <= there
