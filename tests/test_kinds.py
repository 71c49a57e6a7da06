"""What is known of each attack by its name, held against the recipes' knobs and the attacks."""

import dataclasses
import typing

import pytest

from knn_jax import checks, config, data, kinds, recipes


def test_every_name_that_a_recipe_may_give_is_known():
    names = typing.get_type_hints(config.Attack)["names"]
    assert set(typing.get_args(typing.get_args(names)[0])) == set(kinds.KINDS)


def test_each_attack_is_run_in_the_norms_and_from_the_sources_that_it_has():
    knobs = config.Attack(
        names=("minimum_norm", "lbfgs", "pgd"), norms=("l2", "linf"), sources=("model", "network")
    )
    assert kinds.runs(knobs) == [
        ("minimum_norm", "l2", "model"),
        ("minimum_norm", "linf", "model"),
        ("lbfgs", "l2", "model"),
        ("lbfgs", "l2", "network"),
        *(("pgd", norm, source) for norm in ("l2", "linf") for source in ("model", "network")),
    ]
    assert kinds.runs(knobs)[3].label == "lbfgs on network"
    assert kinds.runs(knobs)[0].label == "minimum_norm"


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"names": ("minimum_norm", "guided"), "norms": ("linf",)}, "guided has l2 only"),
        ({"sources": ("model", "substitute")}, "attack.sources=substitute: no attack"),
        ({"names": ("pgd",), "sources": ("network",), "norms": ()}, "pgd has l2 and linf only"),
    ],
)
def test_what_would_silently_not_be_run_is_refused(recipe, knobs, words):
    dataset = data.load(recipe.data)
    recipe = dataclasses.replace(recipe, attack=dataclasses.replace(recipe.attack, **knobs))
    with pytest.raises(ValueError, match=words):
        checks.check(recipe, dataset)


def test_no_substitute_is_trained_that_no_attack_follows(recipe, tmp_path, monkeypatch):
    """Of a recipe that is not checked, as a program's own."""
    monkeypatch.setattr(recipes.retrievers, "plain", None)
    knobs = dataclasses.replace(recipe.attack, sources=("substitute",))
    recipe = dataclasses.replace(recipe, net=config.Net(name="pixels"), attack=knobs)
    recipe = dataclasses.replace(recipe, classifier=config.Classifier(layers=("pixels",), k=5))
    recipes.defend(recipe, data.load(recipe.data), tmp_path)
