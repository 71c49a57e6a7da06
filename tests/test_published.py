"""Published results are of recipes: each names one, and its values are those that were run."""

import csv
import json
from pathlib import Path

import flat_config
import numpy as np
import pytest

from knn_jax.recipe import read

ROOT = Path(__file__).parents[1]
RESULTS = sorted(ROOT.glob("results/*.json")) + sorted(ROOT.glob("results/studies/*.json"))
PLACE = {"class", "name", "path", "data_dir"}  # of TFDS, or of a copy in a file
MADE = "data", "defense", "optim", "classifier", "attacks", "certificates", "measures", "evaluate"


def published(file):
    return json.loads(file.read_text())


def of_recipe(report):
    return read(str(ROOT / report["recipe"]))[0]


def same(part, ours, theirs):
    """Whether two parts of recipes, as JSON has them, are equal but for where the data were read."""
    if part == "data":
        both = (ours.keys() & theirs.keys()) - PLACE
        return all(ours[name] == theirs[name] for name in both)
    return ours == theirs


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_its_recipe_has_the_values_that_were_run(file):
    report = published(file)
    ours, config = of_recipe(report), report["config"]
    if "net" in config:  # it was made before recipes were made of values
        theirs = flat_config.recipe(config)
        assert [part for part in MADE if getattr(ours, part) != getattr(theirs, part)] == []
    else:
        told = ours.told()
        assert [part for part in MADE if not same(part, told[part], config[part])] == []


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_it_says_by_which_command_it_was_made_and_what_of(file):
    report = published(file)
    recipe = of_recipe(report)
    assert set(report["made_by"]) == {"command", "commit"}
    assert report["recipe"].partition(":")[0] in report["made_by"]["command"]
    assert report["decider"] == recipe.classifier.told(recipe.defense)
    assert report["layer"] == recipe.classifier.label(recipe.defense)
    assert report["weights"] == Path(recipe.defense.weights).stem


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_a_papers_figures_beside_it_are_those_of_its_recipe(file):
    """Some were made under a name of their own, which a paper did not report."""
    report = published(file)
    paper = of_recipe(report).paper
    figures, layer = paper.figures if paper else {}, report["layer"]
    assert report["reported"] in ({}, figures.get(layer))
    for name, part in report["reported_attacks"].items():
        assert figures[f"{layer}, {name}"] == part


IMAGES = sorted(ROOT.glob("results/*.csv"))
OF_AUTHORS = {  # right of 10,000: by their own code, of these weights
    "mnist_basic_authors": 9870,
    "mnist_basic_authors_bare": 9878,
    "mnist_l2_adv_authors": 9726,
    "mnist_l2_adv_authors_bare": 9470,
}


@pytest.mark.parametrize("name", OF_AUTHORS)
def test_the_authors_networks_are_as_accurate_as_by_their_own_code(name):
    report = published(ROOT / f"results/{name}.json")
    assert report["clean_acc"] * report["n"] == pytest.approx(OF_AUTHORS[name])


@pytest.mark.parametrize("file", IMAGES, ids=lambda file: file.stem)
def test_single_images_are_those_of_the_report(file):
    """Drawn by its seed, and with its means."""
    report = published(file.with_suffix(".json"))
    with open(file, newline="") as stream:
        rows = list(csv.DictReader(stream))
    order = of_recipe(report).evaluate.order(report["n"])
    assert [int(row["index"]) for row in rows] == order[: len(rows)].tolist()
    for attack in report["attacks"]:
        column = f"{attack['name']}_{attack['norm']}_norm"
        told = [row for row in rows if row.get(column)]
        right = [float(row[column]) for row in told if row["label"] == row["clean"]]
        found = [norm for norm in right if 0 < norm < np.inf]
        if told:
            assert len(told) == attack["n"]
            assert np.mean(found) == pytest.approx(attack["mean_norm"])


def test_every_result_is_of_another_variant():
    recipes = [published(file)["recipe"] for file in RESULTS]
    assert len(recipes) > 70
    assert len(set(recipes)) == len(recipes)
