"""What the three scripts do."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from knn_jax import (
    checks,
    clusters,
    data,
    diagnosis,
    evaluation,
    fixed,
    kinds,
    progress,
    recipes,
    report,
    smoothed,
    workdir,
)
from knn_jax.config import Config


def train(recipe: Config, path: str) -> None:
    """Trains, or goes on from the checkpoint in the workdir."""
    with _opened(recipe, path) as (dataset, folder):
        recipes.network(recipe, dataset, folder)
        checkpoints = folder / "checkpoints"
        nothing = f"nothing to train: net.name={recipe.net.name!r}, net.weights={recipe.net.weights!r}"
        print(f"trained: {checkpoints}" if checkpoints.exists() else nothing)


def attack(recipe: Config, path: str) -> None:
    """Attacks and certifies, and reports both."""
    with _opened(recipe, path) as (dataset, folder):
        _evaluate(recipe, dataset, folder, run=True)


def certify(recipe: Config, path: str) -> None:
    """Certifies only; attacks made before with this recipe stay in the report."""
    if not (recipes.certifiable(recipe) or recipe.certify.smoothing):
        raise ValueError(f"{recipes.uncertified(recipe)}; certify.smoothing covers any")
    with _opened(recipe, path) as (dataset, folder):
        _evaluate(recipe, dataset, folder, run=False)


@contextlib.contextmanager
def _opened(recipe: Config, path: str) -> Iterator[tuple[data.Dataset, Path]]:
    """The data, and the workdir, which is held. Everything that can be wrong with a recipe is found
    here, before the long work."""
    workdir.check(path, recipe)
    dataset = data.load(recipe.data, progress.track)
    checks.check(recipe, dataset)
    fixed.check(recipe, dataset)
    diagnosis.check(recipe, dataset)
    smoothed.check(recipe)
    clusters.check(recipe, dataset)
    with workdir.claim(path, recipe, dataset) as folder:
        yield dataset, folder


def _evaluate(recipe: Config, dataset: data.Dataset, folder: Path, *, run: bool) -> None:
    defended = recipes.defend(recipe, dataset, folder)
    clean = evaluation.predict(recipe, defended, folder)
    outcomes = []
    for which in kinds.runs(recipe.attack):
        attack = fixed.attack if kinds.KINDS[which.name].ball else evaluation.attack
        outcome = attack(recipe, defended, which, folder, run=run)
        outcomes.append(((which.label, which.norm), outcome))
    attacked = {key: outcome for key, outcome in outcomes if outcome}
    certified = {}
    if recipes.certifiable(recipe):
        names = ("margin", "voronoi", *(["exact"] if recipe.certify.exact else []))
        certified = {name: evaluation.certify(recipe, defended, name, folder) for name in names}
    found = diagnosis.diagnose(recipe, defended, attacked, folder)
    drawn = {"clusters.png": clusters.draw(recipe, defended)} if recipe.analyze.points else {}
    by_noise = smoothed.certify(recipe, defended, folder) if recipe.certify.smoothing else None
    outcomes = attacked, certified, folder, found, by_noise, drawn
    report.show(report.write(recipe, defended, clean, *outcomes), folder)
