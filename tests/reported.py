"""Reports of outcomes worked out by hand."""

import dataclasses

from outcomes import CLEAN, RECIPE

from knn_jax import attacks, certificates
from knn_jax.attacks import Attack
from knn_jax.certificates import Certificate
from knn_jax.cli.flags import known_values
from knn_jax.measures import Measured
from knn_jax.report import write

ATTACKS = known_values(attacks, Attack)
CERTIFICATES = known_values(certificates, Certificate)


def asking(recipe, attacked, certified):
    """The recipe with the attacks, sources and certificates of these outcomes."""
    labels = [label.partition(" on ") for label, _ in attacked]
    names = dict.fromkeys(name for name, _, _ in labels)
    sources = dict.fromkeys(["model", *(source for _, _, source in labels if source)])
    return recipe.but(
        attacks={name: recipe.attacks.get(name) or ATTACKS[name]() for name in names},
        certificates={name: CERTIFICATES[name]() for name in certified},
        evaluate=dataclasses.replace(recipe.evaluate, sources=tuple(sources)),
    )


def reported(system, attacked, certified, recipe=RECIPE):
    """What report.json holds."""
    asked = asking(recipe, attacked, certified)
    return write.reported(asked, system, CLEAN, attacked, certified)


def written(system, attacked, certified, folder, recipe=RECIPE, measured=None):
    """The same, with all files of a report in the folder."""
    asked, found = asking(recipe, attacked, certified), measured or Measured({})
    return write.write(asked, system, CLEAN, attacked, certified, found, folder)
