"""The folder of a run: which recipes and data it takes, and that it takes one run at a time."""

import dataclasses
import fcntl
import json

import numpy as np
import pytest

from knn_jax import config, data, workdir


def changed(recipe, field, value):
    section, knob = field.split(".")
    values = dataclasses.replace(getattr(recipe, section), **{knob: value})
    return dataclasses.replace(recipe, **{section: values})


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    split = data.Split(rng.random((6, 2, 2, 1), np.float32), np.arange(6, dtype=np.int32))
    return data.Dataset(split, split, split, 6)


@pytest.fixture
def claim(dataset):
    """Claims a folder for a moment."""

    def claim(path, recipe, dataset=dataset):
        with workdir.claim(str(path), recipe, dataset) as folder:
            return folder

    return claim


def told(folder):
    """The recipe in its config.json, and the digest of the data."""
    found = json.loads((folder / "config.json").read_text())
    return found, found.pop("data_digest")


def test_a_new_folder_gets_the_recipe_and_nothing_else(tmp_path, recipe, dataset, claim):
    folder = claim(tmp_path / "a" / "b", recipe)
    assert folder == tmp_path / "a" / "b"
    assert {file.name for file in folder.iterdir()} == {"config.json", ".lock"}
    assert told(folder) == (recipe.asdict(), dataset.digest())


def replaced(dataset, split, part, value):
    """The data with the last of one split's images or labels changed."""
    found = getattr(dataset, split)
    array = getattr(found, part).copy()
    array[-1] = value
    return dataset._replace(**{split: found._replace(**{part: array})})


@pytest.mark.parametrize("split", ["train", "valid", "test", "extra"])
@pytest.mark.parametrize(("part", "value"), [("images", 0.5), ("labels", 3)])
def test_other_data_of_the_same_name_are_refused(tmp_path, recipe, dataset, claim, split, part, value):
    dataset = dataset._replace(extra=dataset.train)
    claim(tmp_path, recipe, dataset)
    claim(tmp_path, recipe, dataset)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"data\.name='digits' have changed") as error:
        claim(tmp_path, recipe, replaced(dataset, split, part, value))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_workdir_without_a_digest_gets_one_and_says_so(tmp_path, recipe, dataset, claim, capsys):
    claim(tmp_path, recipe)
    assert capsys.readouterr().err == ""
    (tmp_path / "config.json").write_text(json.dumps(recipe.asdict()))
    claim(tmp_path, recipe)
    assert str(tmp_path) in capsys.readouterr().err
    assert told(tmp_path) == (recipe.asdict(), dataset.digest())


def test_a_claimed_folder_is_refused_to_others_until_its_end(tmp_path, recipe, dataset, claim):
    with workdir.claim(str(tmp_path), recipe, dataset):
        for again in (lambda: workdir.check(str(tmp_path), recipe), lambda: claim(tmp_path, recipe)):
            with pytest.raises(ValueError, match="in use by") as error:
                again()
            assert "\n" not in str(error.value)
    claim(tmp_path, recipe)


def test_scratch_files_of_the_dead_are_removed(tmp_path, recipe, claim):
    (tmp_path / "parts").mkdir()
    dead, kept = tmp_path / "parts" / ".000000_4.npz.00ff.scratch", tmp_path / "parts" / "000000_4.npz"
    for file in (dead, kept):
        file.write_text("half")
    claim(tmp_path, recipe)
    assert [f.name for f in (tmp_path / "parts").iterdir()] == [kept.name]


def test_without_locks_it_says_so_and_removes_nothing(tmp_path, recipe, claim, monkeypatch, capsys):
    (tmp_path / ".a.00ff.scratch").write_text("perhaps alive")

    def none(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    claim(tmp_path, recipe)
    assert str(tmp_path) in capsys.readouterr().err
    assert (tmp_path / ".a.00ff.scratch").exists()


def test_of_several_processes_the_first_holds_it_for_all(tmp_path, recipe, claim, dataset, monkeypatch):
    monkeypatch.setattr(workdir.jax, "process_count", lambda: 2)
    (tmp_path / ".a.00ff.scratch").write_text("perhaps of the other")
    with workdir.claim(str(tmp_path), recipe, dataset), monkeypatch.context() as patch:
        patch.setattr(workdir.jax, "process_index", lambda: 1)
        claim(tmp_path, recipe)
    assert (tmp_path / ".a.00ff.scratch").exists()


@pytest.mark.parametrize(
    ("field", "place"),
    [
        ("data.name", "gs://bucket/set.npz"),
        ("data.data_dir", "gs://bucket/data"),
        ("net.weights", "https://host/weights.npz"),
    ],
)
def test_object_stores_are_refused(tmp_path, recipe, field, place):
    with pytest.raises(ValueError, match=f"{field}='{place}'"):
        workdir.check(str(tmp_path), changed(recipe, field, place))
    with pytest.raises(ValueError, match="workdir='gs://bucket/run'"):
        workdir.check("gs://bucket/run", recipe)
    workdir.check(str(tmp_path / "none"), recipe)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_the_config_is_one_line(tmp_path, recipe, claim):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ValueError, match=r"config\.json cannot be read") as error:
        claim(tmp_path, recipe)
    assert "\n" not in str(error.value)


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
def test_another_network_is_refused_with_the_field_and_both_values(
    tmp_path, recipe, claim, field, value
):
    claim(tmp_path, recipe)
    before = (tmp_path / "config.json").read_bytes()
    section, knob = field.split(".")
    here, there = (r.asdict()[section][knob] for r in (changed(recipe, field, value), recipe))
    with pytest.raises(ValueError, match="--workdir") as error:
        claim(tmp_path, changed(recipe, field, value))
    assert f"{field} is {here!r} here and {there!r} in {tmp_path}" in str(error.value)
    assert "\n" not in str(error.value)
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("field", "value"),
    [("optim.epochs", 2), ("attack.steps", 9), ("classifier.k", 1), ("certify.other", 5)],
)
def test_more_epochs_and_another_question_are_taken(tmp_path, recipe, claim, field, value):
    claim(tmp_path, recipe)
    asked = changed(recipe, field, value)
    claim(tmp_path, asked)
    assert told(tmp_path)[0] == asked.asdict()


def test_what_retrieves_by_a_network_of_its_own_takes_no_more_epochs(tmp_path, recipe, claim):
    recipe = changed(recipe, "defense.name", "racnn")
    claim(tmp_path, recipe)
    with pytest.raises(ValueError, match=r"optim\.epochs is 2 here and 1 in"):
        claim(tmp_path, changed(recipe, "optim.epochs", 2))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "\xff", '{"data": 3}', '{"data": {}, "net": {}}', "\x00\x01"]
)
def test_a_damaged_config_is_one_line_and_stays(tmp_path, recipe, claim, text):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is damaged") as error:
        claim(tmp_path, recipe)
    assert "\n" not in str(error.value)
    assert file.read_text() == text


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_path_below_a_file_cannot_be_written(tmp_path, recipe, claim, below):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ValueError, match="cannot be written") as error:
        claim(file / below, recipe)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert file.read_text() == "mine"


def test_a_knob_that_there_was_not_yet_was_at_its_default(tmp_path, recipe, claim):
    file = tmp_path / "config.json"
    before = recipe.asdict()
    del before["optim"]["weight_decay"]
    file.write_text(json.dumps(before))
    with pytest.raises(ValueError, match=r"optim\.weight_decay is 0\.5 here and 0\.0 in"):
        claim(tmp_path, changed(recipe, "optim.weight_decay", 0.5))
    claim(tmp_path, recipe)
    assert told(tmp_path)[0] == recipe.asdict()


def test_sections_are_those_of_the_recipe():
    assert set(workdir.SECTIONS) < {f.name for f in dataclasses.fields(config.Config)}
