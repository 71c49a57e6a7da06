"""What the three scripts do."""

from pathlib import Path

from knn_jax import data, diagnosis, evaluation, fixed, progress, recipes, report, workdir
from knn_jax.config import Config


def train(recipe: Config, path: str) -> None:
    """Trains, or goes on from the checkpoint in the workdir."""
    dataset, folder = _open(recipe, path)
    recipes.network(recipe, dataset, folder)
    print(f"trained: {folder / 'checkpoints'}")


def attack(recipe: Config, path: str) -> None:
    """Attacks and certifies, and reports both."""
    _evaluate(recipe, path, run=True)


def certify(recipe: Config, path: str) -> None:
    """Certifies only; attacks made before with this recipe stay in the report."""
    if not certifiable(recipe):
        knobs = recipe.classifier
        raise ValueError(
            f"certificates cover one layer by l2: classifier.layers={knobs.layers}, "
            f"metric={knobs.metric!r}"
        )
    _evaluate(recipe, path, run=False)


def certifiable(recipe: Config) -> bool:
    """Whether certificates cover the classifier: distances in one layer."""
    return len(recipe.classifier.layers) == 1 and recipe.classifier.metric == "l2"


def _open(recipe: Config, path: str) -> tuple[data.Dataset, Path]:
    """Everything that can be wrong with a recipe is found here, before the long work."""
    dataset = data.load(recipe.data, progress.track)
    recipes.check(recipe, dataset)
    fixed.check(recipe, dataset)
    diagnosis.check(recipe, dataset)
    return dataset, workdir.claim(path, recipe)


def _evaluate(recipe: Config, path: str, *, run: bool) -> None:
    dataset, folder = _open(recipe, path)
    defended = recipes.defend(recipe, dataset, folder)
    clean = evaluation.predict(recipe, defended, folder)
    outcomes = []
    for pair in recipe.attack.pairs():
        attack = fixed.attack if pair[0] in fixed.NAMES else evaluation.attack
        outcomes.append((pair, attack(recipe, defended, *pair, folder, run=run)))
    attacked = {pair: outcome for pair, outcome in outcomes if outcome}
    certified = {}
    if certifiable(recipe):
        names = ("margin", "voronoi", *(["exact"] if recipe.certify.exact else []))
        certified = {name: evaluation.certify(recipe, defended, name, folder) for name in names}
    found = diagnosis.diagnose(recipe, defended, attacked, folder)
    report.show(report.write(recipe, defended, clean, attacked, certified, folder, found), folder)
