"""The import rule of the design, read from the sources."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import knn_jax

ROOT = Path(knn_jax.__file__).parent
LEVELS = {
    "config": 0,
    "neighbors": 1,
    "balls": 0,
    "files": 0,
    "lock": 0,
    "mesh": 0,
    "augment": 1,
    "losses": 0,
    "prototypes": 1,
    "nets": 2,
    "data": 1,
    "classifiers": 2,
    "attacks": 3,
    "certificates": 3,
    "analysis": 3,
    "defenses": 3,
    "references": 4,
    "retrievers": 4,
    "training": 4,
    "validation": 4,
    "checkpoints": 4,
    "kinds": 4,
    "evaluation": 4,
    "diagnosis": 4,
    "fixed": 4,
    "chunks": 4,
    "checks": 4,
    "recipes": 4,
    "smoothed": 4,
    "clusters": 4,
    "compare": 4,
    "entries": 4,
    "report": 4,
    "pages": 4,
    "tables": 4,
    "figures": 4,
    "jobs": 4,
    "cli": 4,
    "compiled": 0,
    "workdir": 4,
    "progress": 4,
    "state_dict": 4,
}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def house(path):
    """The module or package of knn_jax that a file belongs to: nets for nets/trunk.py."""
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
    """The houses of knn_jax that a file imports, its own included."""
    names = (name.split(".") for name in imported(path))
    return {name[1] for name in names if name[0] == "knn_jax"}


def relative(path):
    return str(path.relative_to(ROOT))


def test_every_module_has_a_level():
    assert {house(path) for path in FILES} == set(LEVELS)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_go_downwards(path):
    """To the same package or a lower level; the modules of the top level may use each other."""
    here = house(path)
    top = max(LEVELS.values())
    wrong = {
        there
        for there in own(path) - {here}
        if not (LEVELS[there] < LEVELS[here] or LEVELS[here] == LEVELS[there] == top)
    }
    assert not wrong


def test_no_import_is_circular():
    graph = {house(path): set() for path in FILES}
    for path in FILES:
        graph[house(path)] |= own(path) - {house(path)}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(LEVELS)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_only_nets_imports_flax(path):
    assert house(path) == "nets" or not any(name.split(".")[0] == "flax" for name in imported(path))


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("neighbors", {"mesh"}),
        ("mesh", set()),
        ("balls", set()),
        ("config", set()),
        ("augment", set()),
        ("nets", {"config", "losses", "prototypes"}),
        ("data", {"config"}),
        ("defenses", {"balls", "config", "data", "losses"}),
        ("attacks", {"balls", "losses", "neighbors", "classifiers"}),
        ("certificates", {"balls", "losses", "neighbors", "classifiers"}),
        ("analysis", {"balls", "neighbors", "classifiers"}),
    ],
)
def test_what_each_package_may_know(package, allowed):
    known = set().union(*(own(path) for path in FILES if house(path) == package))
    assert known - {package} <= allowed


def test_config_is_imported_without_jax():
    check = "import sys, knn_jax.config; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT.parent, check=False).returncode == 0


BENCHMARKS = ROOT.parent / "benchmarks"


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.name)
def test_benchmarks_find_in_each_other_what_they_import(path):
    """They are run by hand only, and with packages that the tests do not have."""
    for node in ast.walk(ast.parse(path.read_text())):
        beside = BENCHMARKS / f"{getattr(node, 'module', None)}.py"
        if isinstance(node, ast.ImportFrom) and beside.exists():
            body = ast.parse(beside.read_text()).body
            there = {getattr(made, "name", None) for made in body}
            assigned = (made.targets for made in body if isinstance(made, ast.Assign))
            there |= {target.id for some in assigned for target in some if isinstance(target, ast.Name)}
            assert {alias.name for alias in node.names} <= there
