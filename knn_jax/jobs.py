"""What the three scripts do."""

from knn_jax import data, evaluation, progress, report, workdir
from knn_jax.config import Config

CERTIFICATES = ("margin", "voronoi")


def train(recipe: Config, path: str) -> None:
    """Trains, or goes on from the checkpoint in the workdir."""
    dataset, folder = _open(recipe, path)
    evaluation.network(recipe, dataset, folder)
    print(f"trained: {folder / 'checkpoints'}")


def attack(recipe: Config, path: str) -> None:
    """Attacks and certifies, and reports both."""
    _evaluate(recipe, path, recipe.attack.norms)


def certify(recipe: Config, path: str) -> None:
    """Certifies only; attacks already made with this recipe stay in the report."""
    _evaluate(recipe, path, ())


def _open(recipe, path):
    """Everything that can be wrong with a recipe is found here, before the long work."""
    dataset = data.load(recipe.data, progress.track)
    evaluation.check(recipe, dataset)
    return dataset, workdir.claim(path, recipe)


def _evaluate(recipe, path, norms):
    dataset, folder = _open(recipe, path)
    defended = evaluation.defend(recipe, dataset, folder)
    attacked = {norm: evaluation.attack(recipe, defended, norm, folder) for norm in norms}
    certified = {}
    if len(recipe.classifier.layers) == 1:  # certificates cover one tap
        certified = {c: evaluation.certify(recipe, defended, c, folder) for c in CERTIFICATES}
    report.show(report.write(recipe, defended, attacked, certified, folder), folder)
