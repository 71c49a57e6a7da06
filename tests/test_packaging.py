"""What the package says of itself in several places is the same in all."""

import re
import tomllib
from pathlib import Path

import knn_jax

ROOT = Path(knn_jax.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_citation_is_of_this_version_and_licence():
    cited = dict(re.findall(r"^([\w-]+): (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE))
    assert {name: cited[name] for name in ("version", "license")} == {
        name: PROJECT["project"][name] for name in ("version", "license")
    }


def test_type_checkers_are_told_that_the_package_has_types():
    assert PROJECT["tool"]["setuptools"]["package-data"]["knn_jax"] == ["py.typed"]
    assert (ROOT / "knn_jax" / "py.typed").is_file()
