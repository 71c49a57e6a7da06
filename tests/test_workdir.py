"""The folder of a run: which recipes and data it takes, and that it takes one run at a time."""

import dataclasses
import fcntl
import json

import numpy as np
import pytest

from knn_jax import attacks, certificates, data, defenses, nets, workdir
from knn_jax.cli import run
from knn_jax.recipe import Evaluate, Recipe, fit
from knn_jax.training import Adversary, Optim
from knn_jax.workdir import files
from knn_jax.workdir.claim import flat

RECIPE = Recipe(
    name="some",
    data=data.Digits(),
    defense=defenses.ASK(
        nets.mnist_vgg(), layers=("conv4",), adversary=Adversary(norm="linf", eps=0.2, steps=3)
    ),
    optim=Optim(epochs=1),
    classifier=fit.KNN(layers=("conv4",), k=5),
    attacks={"pgd": attacks.PGD(steps=3)},
    certificates={"margin": certificates.Margin()},
)


def changed(recipe, **knobs):
    """The recipe with other knobs of its values, named as in optim__epochs."""
    for place, knob in knobs.items():
        part, *within, name = place.split("__")
        value = getattr(recipe, part)
        if isinstance(value, dict):
            [key] = within
            new = value | {key: dataclasses.replace(value[key], **{name: knob})}
        elif within:
            [inner] = within
            deep = dataclasses.replace(getattr(value, inner), **{name: knob})
            new = dataclasses.replace(value, **{inner: deep})
        else:
            new = dataclasses.replace(value, **{name: knob})
        recipe = recipe.but(**{part: new})
    return recipe


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    split = data.Split(rng.random((6, 2, 2, 1), np.float32), np.arange(6, dtype=np.int32))
    return data.Dataset(split, split, split, 6)


@pytest.fixture
def claim(dataset):
    """Claims a folder for a moment."""

    def claim(path, recipe=RECIPE, dataset=dataset, **settings):
        settings = {"defaults": recipe.defaults()} | settings
        with workdir.claim(str(path), recipe.told(), dataset.digest(), **settings) as folder:
            return folder

    return claim


def told(folder):
    """The recipe in its config.json, and the digest of the data."""
    found = json.loads((folder / "config.json").read_text())
    return found, found.pop("data_digest")


def as_json(recipe):
    return json.loads(json.dumps(recipe.told()))


def test_a_new_folder_gets_the_recipe_and_nothing_else(tmp_path, dataset, claim):
    folder = claim(tmp_path / "a" / "b")
    assert folder == tmp_path / "a" / "b"
    assert {file.name for file in folder.iterdir()} == {"config.json", ".lock"}
    assert told(folder) == (as_json(RECIPE), dataset.digest())


def replaced(dataset, split, part, value):
    """The data with the last of one split's images or labels changed."""
    found = getattr(dataset, split)
    array = getattr(found, part).copy()
    array[-1] = value
    return dataset._replace(**{split: found._replace(**{part: array})})


@pytest.mark.parametrize("split", ["train", "valid", "test", "extra"])
@pytest.mark.parametrize(("part", "value"), [("images", 0.5), ("labels", 3)])
def test_other_data_of_the_same_name_are_refused(tmp_path, dataset, claim, split, part, value):
    dataset = dataset._replace(extra=dataset.train)
    claim(tmp_path, dataset=dataset)
    claim(tmp_path, dataset=dataset)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match="images or labels have changed") as error:
        claim(tmp_path, dataset=replaced(dataset, split, part, value))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_claimed_folder_is_refused_to_others_until_its_end(tmp_path, claim):
    with workdir.claim(str(tmp_path), RECIPE.told(), "digest"):
        for again in (lambda: workdir.check(str(tmp_path)), lambda: claim(tmp_path)):
            with pytest.raises(ValueError, match="in use by") as error:
                again()
            assert "\n" not in str(error.value)
    (tmp_path / "config.json").unlink()
    claim(tmp_path)


def test_scratch_files_of_the_dead_are_removed(tmp_path, claim):
    (tmp_path / "parts").mkdir()
    dead, kept = tmp_path / "parts" / ".000000_4.npz.00ff.scratch", tmp_path / "parts" / "000000_4.npz"
    for file in (dead, kept):
        file.write_text("half")
    claim(tmp_path)
    assert [f.name for f in (tmp_path / "parts").iterdir()] == [kept.name]


def test_without_locks_it_says_so_and_removes_nothing(tmp_path, claim, monkeypatch, capsys):
    (tmp_path / ".a.00ff.scratch").write_text("perhaps alive")

    def none(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    claim(tmp_path)
    assert str(tmp_path) in capsys.readouterr().err
    assert (tmp_path / ".a.00ff.scratch").exists()


def test_another_process_sees_what_the_first_has_claimed(tmp_path, claim, dataset):
    folder = claim(tmp_path / "shared")
    assert workdir.claimed(str(folder), RECIPE.told(), dataset.digest()) == folder
    claim(tmp_path / "local", changed(RECIPE, optim__epochs=RECIPE.optim.epochs + 1))
    for other in (tmp_path / "none", tmp_path / "local"):
        with pytest.raises(ValueError, match="is not that of process 0"):
            workdir.claimed(str(other), RECIPE.told(), dataset.digest())


@pytest.mark.parametrize(
    "refused",
    [
        lambda place: workdir.check(place),
        lambda place: files.place("workdir", place),
        lambda place: data.NPZ(place),
        lambda place: data.TFDS("mnist", data_dir=place),
        lambda place: data.at_path(place, data.Digits()),
    ],
)
@pytest.mark.parametrize("place", ["s3://bucket/run", "https://host/set.npz"])
def test_other_stores_are_refused(refused, place):
    with pytest.raises(ValueError, match=f"='{place}'"):
        refused(place)


def test_a_folder_that_is_not_there_is_not_made_by_looking(tmp_path):
    workdir.check(str(tmp_path / "none"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_the_config_is_one_line(tmp_path, claim):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ValueError, match=r"config\.json cannot be read") as error:
        claim(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("data__split_seed", 7),
        ("data__train_images", 5),
        ("defense__weight", 2.0),
        ("defense__net__hidden", (7,)),
        ("defense__adversary__eps", 0.25),
        ("optim__peak_lr", 0.5),
        ("optim__drops", (3,)),
        ("optim__seed", 1),
        ("optim__epochs", 0),
    ],
)
def test_another_network_is_refused_with_the_field_and_both_values(tmp_path, claim, place, value):
    claim(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    field = place.replace("__", ".")
    here, there = (
        flat(as_json(recipe))[field] for recipe in (changed(RECIPE, **{place: value}), RECIPE)
    )
    with pytest.raises(ValueError, match="--workdir") as error:
        claim(tmp_path, changed(RECIPE, **{place: value}))
    assert f"{field} is {here!r} here and {there!r} in {tmp_path}" in str(error.value)
    assert "\n" not in str(error.value)
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    "other",
    [
        RECIPE.but(defense=defenses.CrossEntropy(nets.mnist_vgg())),
        RECIPE.but(defense=dataclasses.replace(RECIPE.defense, net=nets.mnist_convnet())),
        RECIPE.but(defense=dataclasses.replace(RECIPE.defense, beside=defenses.TradesLoss())),
        RECIPE.but(data=data.TFDS("mnist")),
    ],
)
def test_another_value_in_the_place_of_one_is_another_network(tmp_path, claim, other):
    claim(tmp_path)
    for recipe, folder in ((other, tmp_path), (RECIPE, tmp_path / "other")):
        claim(tmp_path / "other", other)
        with pytest.raises(ValueError, match="use another --workdir") as error:
            claim(folder, recipe)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "asked",
    [
        changed(RECIPE, optim__epochs=2),
        changed(RECIPE, attacks__pgd__steps=9),
        RECIPE.but(attacks={}, certificates={"voronoi": certificates.Voronoi(own=5)}),
        RECIPE.but(classifier=fit.KNN(layers=("conv3",), k=1)),
        RECIPE.but(evaluate=Evaluate(images=7), name="another"),
        RECIPE.but(data=data.NPZ("set.npz")).but(data=RECIPE.data),
    ],
)
def test_more_epochs_and_another_question_are_taken(tmp_path, claim, asked):
    claim(tmp_path)
    claim(tmp_path, asked)
    assert told(tmp_path)[0] == as_json(asked)


def test_where_files_lie_does_not_matter_but_what_is_in_them(tmp_path, claim):
    for place, folder in (("a.npz", "here"), ("b.npz", "there")):
        claim(tmp_path / "npz", RECIPE.but(data=data.NPZ(place)))
        claim(tmp_path / "tfds", RECIPE.but(data=data.TFDS("mnist", data_dir=folder)))


def test_what_retrieves_by_a_network_of_its_own_takes_no_more_epochs(tmp_path, claim):
    claim(tmp_path)
    with pytest.raises(ValueError, match=r"optim\.epochs is 2 here and 1 in"):
        claim(tmp_path, changed(RECIPE, optim__epochs=2), grows=False)


@pytest.mark.parametrize(
    ("defense", "grows"),
    [
        (defenses.CrossEntropy(nets.digits_convnet()), True),
        (defenses.RaCNN(nets.cifar10_racnn(), nets.cifar10_all_conv(), layer="conv5"), False),
    ],
)
def test_the_scripts_let_grow_what_can(tmp_path, monkeypatch, dataset, defense, grows):
    asked = []
    monkeypatch.setattr(data.Digits, "load", lambda *_: dataset)
    monkeypatch.setattr(type(defense), "check", lambda *_: None)
    monkeypatch.setattr(type(defense), "fit", lambda *_: None)
    real = workdir.claim

    def noted(*arguments, **settings):
        asked.append(settings)
        return real(*arguments, **settings)

    monkeypatch.setattr(workdir, "claim", noted)
    run.train(RECIPE.but(defense=defense), str(tmp_path))
    assert [settings["grows"] for settings in asked] == [grows]


def test_a_workdir_of_the_recipes_that_there_were_is_refused_in_one_line_that_says_so(tmp_path, claim):
    old = {"name": "digits", "data": {"name": "digits"}, "net": {"name": "digits"}, "optim": {}}
    text = json.dumps(old | {"data_digest": "00ff"})
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"{tmp_path} is of knn_jax 0\.1") as error:
        claim(tmp_path)
    assert "--workdir" in str(error.value)
    assert "\n" not in str(error.value)
    assert (tmp_path / "config.json").read_text() == text


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", "\xff", '{"data": 3}', '{"data": {}, "defense": {}}', "\x00\x01"],
)
def test_a_damaged_config_is_one_line_and_stays(tmp_path, claim, text):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is damaged") as error:
        claim(tmp_path)
    assert "\n" not in str(error.value)
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("place", "value", "shown"),
    [
        ("optim__weight_decay", 0.5, r"optim\.weight_decay is 0\.5 here and 0\.0 in"),
        ("defense__references", 7, r"defense\.references is 7 here and 5 in"),
        ("defense__adversary__step_size", 0.5, r"step_size is 0\.5 here and 0\.1 in"),
        ("defense__beside", defenses.TradesLoss(), r"defense\.beside\.class is 'TradesLoss' here"),
    ],
)
def test_a_knob_that_there_was_not_yet_was_at_its_default(tmp_path, claim, place, value, shown):
    file = claim(tmp_path) / "config.json"
    before = json.loads(file.read_text())
    part, *within = place.split("__")
    inner = before[part]
    for name in within[:-1]:
        inner = inner[name]
    del inner[within[-1]]
    file.write_text(json.dumps(before))
    with pytest.raises(ValueError, match=shown):
        claim(tmp_path, changed(RECIPE, **{place: value}))
    claim(tmp_path)
    assert told(tmp_path)[0] == as_json(RECIPE)


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_path_below_a_file_cannot_be_written(tmp_path, claim, below):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ValueError, match="cannot be written") as error:
        claim(file / below)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert file.read_text() == "mine"
