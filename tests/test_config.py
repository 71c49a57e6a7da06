"""Recipes: values that cannot change, go through JSON, and need no jax."""

import ast
import dataclasses
import json
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from knn_jax import config

SECTIONS = [f for f in dataclasses.fields(config.Config) if dataclasses.is_dataclass(f.type)]


def knobs():
    """(section, knob, docstring) of every knob."""
    for cls in ast.parse(Path(config.__file__).read_text()).body:
        if not isinstance(cls, ast.ClassDef) or cls.name == "Config":
            continue
        for line, after in zip(cls.body, [*cls.body[1:], None], strict=True):
            if isinstance(line, ast.AnnAssign):
                told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                yield cls.name, line.target.id, after.value.value if told else ""


@pytest.mark.parametrize("knob", list(knobs()), ids=lambda knob: f"{knob[0]}.{knob[1]}")
def test_every_knob_is_explained(knob):
    assert knob[2]


def test_every_section_is_frozen_with_defaults():
    recipe = config.Config(name="any")
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.name = "other"
    for section in SECTIONS:
        value = getattr(recipe, section.name)
        assert value == section.type()
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, dataclasses.fields(value)[0].name, "other")


def test_asdict_goes_through_json_unchanged(recipe):
    plain = dataclasses.replace(recipe, reported={"relu3": {"clean_acc": 0.987}}).asdict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["classifier"]["layers"] == ["relu3"]
    assert plain["reported"] == {"relu3": {"clean_acc": 0.987}}
    assert set(plain) == {f.name for f in dataclasses.fields(config.Config)}


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_every_knob_is_in_the_dict(recipe, section):
    for field in dataclasses.fields(section.type):
        value = getattr(getattr(recipe, section.name), field.name)
        if isinstance(value, tuple):
            other = value * 2 or (typing.get_args(field.type)[0](1),)
        elif isinstance(value, bool):
            other = not value
        else:
            choices = [c for c in typing.get_args(field.type) if c != value]
            other = (choices or ["mnist"])[0] if isinstance(value, str) else value + 1
        changed = dataclasses.replace(getattr(recipe, section.name), **{field.name: other})
        assert dataclasses.replace(recipe, **{section.name: changed}).asdict() != recipe.asdict()


def test_it_imports_no_jax():
    code = "import sys, knn_jax.config; print({'jax', 'flax', 'numpy'} & set(sys.modules) or 'none')"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "none", done.stderr
