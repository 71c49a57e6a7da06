"""The folder of a run: which recipes it takes, and files that are written whole or not at all."""

import dataclasses
import json

import pytest

from knn_jax import config, workdir


def changed(recipe, field, value):
    section, knob = field.split(".")
    values = dataclasses.replace(getattr(recipe, section), **{knob: value})
    return dataclasses.replace(recipe, **{section: values})


def test_a_new_folder_gets_the_recipe_and_nothing_else(tmp_path, recipe):
    folder = workdir.claim(str(tmp_path / "a" / "b"), recipe)
    assert folder == tmp_path / "a" / "b"
    assert [file.name for file in folder.iterdir()] == ["config.json"]
    assert json.loads((folder / "config.json").read_text()) == recipe.asdict()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data.name", "mnist"),
        ("data.split_seed", 7),
        ("net.name", "pixels"),
        ("net.weights", "some.npz"),
        ("optim.peak_lr", 0.5),
        ("optim.drops", (3,)),
        ("optim.seed", 1),
        ("optim.epochs", 0),
    ],
)
def test_another_network_is_refused_with_the_field_and_both_values(tmp_path, recipe, field, value):
    workdir.claim(str(tmp_path), recipe)
    before = (tmp_path / "config.json").read_bytes()
    section, knob = field.split(".")
    here, there = (r.asdict()[section][knob] for r in (changed(recipe, field, value), recipe))
    with pytest.raises(ValueError, match="--workdir") as error:
        workdir.claim(str(tmp_path), changed(recipe, field, value))
    assert f"{field} is {here!r} here and {there!r} in {tmp_path}" in str(error.value)
    assert "\n" not in str(error.value)
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("field", "value"),
    [("optim.epochs", 2), ("attack.steps", 9), ("classifier.k", 1), ("certify.other", 5)],
)
def test_more_epochs_and_another_question_are_taken(tmp_path, recipe, field, value):
    workdir.claim(str(tmp_path), recipe)
    asked = changed(recipe, field, value)
    workdir.claim(str(tmp_path), asked)
    assert json.loads((tmp_path / "config.json").read_text()) == asked.asdict()
    assert len(list(tmp_path.iterdir())) == 1


def test_what_retrieves_by_a_network_of_its_own_takes_no_more_epochs(tmp_path, recipe):
    recipe = changed(recipe, "defense.name", "racnn")
    workdir.claim(str(tmp_path), recipe)
    with pytest.raises(ValueError, match=r"optim\.epochs is 2 here and 1 in"):
        workdir.claim(str(tmp_path), changed(recipe, "optim.epochs", 2))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"data": 3}', '{"data": {}, "net": {}}', "\x00\x01"]
)
def test_a_damaged_config_is_one_line_and_stays(tmp_path, recipe, text):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is damaged") as error:
        workdir.claim(str(tmp_path), recipe)
    assert "\n" not in str(error.value)
    assert file.read_text() == text


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_path_below_a_file_cannot_be_written(tmp_path, recipe, below):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ValueError, match="cannot be written") as error:
        workdir.claim(str(file / below), recipe)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert file.read_text() == "mine"


def test_a_knob_that_there_was_not_yet_was_at_its_default(tmp_path, recipe):
    file = tmp_path / "config.json"
    before = recipe.asdict()
    del before["optim"]["weight_decay"]
    file.write_text(json.dumps(before))
    with pytest.raises(ValueError, match=r"optim\.weight_decay is 0\.5 here and 0\.0 in"):
        workdir.claim(str(tmp_path), changed(recipe, "optim.weight_decay", 0.5))
    workdir.claim(str(tmp_path), recipe)
    assert json.loads(file.read_text()) == recipe.asdict()


def test_whole_replaces_the_file(tmp_path):
    file = tmp_path / "new" / "file"
    for text in ("first", "second"):
        with workdir.whole(file) as scratch:
            scratch.write_text(text)
            assert not file.exists() or file.read_text() != text
        assert file.read_text() == text
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_whole_leaves_the_old_file_and_no_other_on_an_error(tmp_path, error):
    file = tmp_path / "file"
    file.write_text("old")

    def write():
        with workdir.whole(file) as scratch:
            scratch.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_sections_are_those_of_the_recipe():
    assert set(workdir.SECTIONS) < {f.name for f in dataclasses.fields(config.Config)}
