"""What the three scripts do with a recipe."""

import contextlib
import json
from collections.abc import Iterator

import jax

from knn_jax import defenses, mesh, workdir
from knn_jax.data import Dataset
from knn_jax.display import progress
from knn_jax.evaluation import attacked, certified, measured
from knn_jax.evaluation.attacked import runs, sources
from knn_jax.evaluation.code import everything
from knn_jax.recipe import Recipe, fit
from knn_jax.recipe.fit import System
from knn_jax.report import write
from knn_jax.workdir import Place, files


def train(recipe: Recipe, path: str) -> None:
    """Trains, or goes on from the checkpoint in the workdir."""
    with _opened(recipe, path, tested=False) as (dataset, folder):
        recipe.defense.fit(dataset, recipe.optim, folder)
        checkpoints = folder / "checkpoints"
        given = f"{type(recipe.defense).__name__}(weights={recipe.defense.weights!r})"
        if mesh.first():
            print(
                f"trained: {checkpoints}" if files.exists(checkpoints) else f"nothing to train: {given}"
            )


def attack(recipe: Recipe, path: str) -> None:
    """Attacks and certifies, and reports both."""
    if not (recipe.attacks or recipe.certificates):
        raise ValueError("the recipe has neither attacks nor certificates: name one, --attack NAME")
    with _opened(recipe, path) as (dataset, folder):
        _evaluate(recipe, dataset, folder, compute=True)


def certify(recipe: Recipe, path: str) -> None:
    """Certifies only; attacks made before with this recipe stay in the report."""
    if not recipe.certificates:
        why = recipe.classifier.uncertified(recipe.defense)
        other = f"{why}; --certificate smoothing covers any" if why else "name one, --certificate NAME"
        raise ValueError(f"the recipe has no certificates: {other}")
    with _opened(recipe, path) as (dataset, folder):
        _evaluate(recipe, dataset, folder, compute=False)


def check(recipe: Recipe, dataset: Dataset) -> None:
    """Raises ValueError, before any long work, for a recipe whose values do not go together, or that
    the data cannot serve."""
    followed = sources(recipe)
    fit.check(recipe.defense, recipe.classifier, recipe.optim, dataset, followed)
    attacked.check(recipe, dataset)
    certified.check(recipe, dataset)
    measured.check(recipe, dataset)


@contextlib.contextmanager
def _opened(recipe: Recipe, path: str, *, tested: bool = True) -> Iterator[tuple[Dataset, Place]]:
    """The data, and the workdir, which is held. What is wrong with a recipe is found here, before the
    long work; what training does not use is checked only if it is `tested`. Of several processes one
    holds the workdir, after all have found that they were asked the same."""

    def loaded() -> Dataset:
        dataset = recipe.data.load(progress.track)
        if tested:
            check(recipe, dataset)
        else:
            recipe.defense.check(dataset, recipe.optim)
        return dataset

    mesh.by_first(lambda: workdir.check(path))
    dataset = mesh.together(loaded)
    told, data = recipe.told(), dataset.digest()
    if not mesh.alone():  # the sources are read for it
        mesh.agree("the version of jax", jax.__version__)
        mesh.agree("the digest of knn_jax's sources", everything())
        mesh.agree("the digest of the recipe", workdir.digest(json.dumps(told)))
        mesh.agree("the digest of the data", data)
    grows = not isinstance(recipe.defense, defenses.RaCNN)  # its retriever would learn on below it
    claim = workdir.claim(path, told, data, grows=grows, defaults=recipe.defaults())
    with contextlib.ExitStack() as stack:
        mesh.by_first(lambda: stack.enter_context(claim))
        folder = mesh.together(lambda: workdir.claimed(path, told, data))
        yield dataset, folder


def _evaluate(recipe: Recipe, dataset: Dataset, folder: Place, *, compute: bool) -> None:
    system = made(recipe, dataset, folder)
    mesh.agree("the fingerprint of the classifier", system.fingerprint)
    clean = attacked.predict(recipe, system, folder)
    attacks: attacked.Attacked = {}
    for run in runs(recipe):
        results = attacked.attack(recipe, system, run, folder, compute=compute)
        if results:
            attacks[run.label, run.norm] = results
    certificates = {
        name: certified.certify(recipe, system, name, certificate, folder)
        for name, certificate in recipe.certificates.items()
    }
    measures = measured.measure(recipe, system, attacks, folder)
    if mesh.first():
        write.show(write.write(recipe, system, clean, attacks, certificates, measures, folder), folder)


def made(recipe: Recipe, dataset: Dataset, folder: Place) -> System:
    """The recipe's system, trained or loaded in the folder; its test images in the recipe's order."""
    if recipe.evaluate.image_seed is not None:
        order = recipe.evaluate.order(len(dataset.test.labels))
        dataset = dataset._replace(test=dataset.test.rows(order))
    followed = sources(recipe)
    return fit.system(recipe.defense, recipe.classifier, recipe.optim, dataset, folder, followed)
