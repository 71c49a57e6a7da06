"""Certificates of the first test images."""

from collections.abc import Mapping

from knn_jax import values
from knn_jax.certificates import Certificate
from knn_jax.data import Dataset
from knn_jax.evaluation.resumable import Results, Resumable
from knn_jax.recipe import Recipe, finite
from knn_jax.recipe.fit import System
from knn_jax.recipe.planned import Planned
from knn_jax.workdir import Place

Certified = Mapping[str, Results]  # by the certificate's name in the recipe


def certify(
    recipe: Recipe, system: System, name: str, certificate: Certificate, folder: Place
) -> Results:
    """The radii of one certificate, and what else it tells of each image."""
    asked = recipe.evaluate

    def one(given, key, x, y):
        made, model, lipschitz = given
        return made.bound(key, model, x, y, lipschitz)

    settings = [values.told(certificate), system.lipschitz if certificate.of_features else None]
    chunks = Resumable(
        name,
        settings,
        system,
        asked.to_certify,
        asked.certified_chunk,
        folder,
        code=(certificate,),
        seed=asked.seed,
    )
    constant = certificate.check(system.model, finite(system.lipschitz))
    chunks.given = values.arrays(certificate), system.model, constant
    found = chunks.results(one, f"certifying by {name}")
    labels = system.dataset.test.labels[: asked.to_certify]
    return found._replace(arrays=certificate.finish(found.arrays, labels))


def check(recipe: Recipe, dataset: Dataset) -> None:
    """Raises ValueError for certificates that the recipe cannot have, before any long work."""
    asked, plan = recipe.evaluate, Planned(recipe.defense, recipe.classifier, dataset)
    if recipe.certificates:
        plan.check_images("certified_images" if asked.certified_images else "images", asked.to_certify)
    plan.check("certificates", recipe.certificates)
