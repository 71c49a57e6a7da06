"""Results of attacks and certificates worked out by hand, for reports and tables."""

import jax.numpy as jnp
import numpy as np

from knn_jax import attacks, certificates, classifiers, data, defenses, nets
from knn_jax.evaluation.resumable import Results
from knn_jax.recipe import Evaluate, Paper, Recipe, fit
from knn_jax.recipe.fit import System

# Five test images; the fourth is misclassified, the third resists the attack.
LABELS = np.array([0, 1, 0, 1, 0], np.int32)
CLEAN = np.array([0, 1, 0, 0, 0], np.int32)
NORM = np.array([1.0, 2.0, np.inf, 0.0, 0.5], np.float32)
RADIUS = np.array([0.5, 1.5, 3.0, 0.0, 0.25], np.float32)

RECIPE = Recipe(
    name="by <hand>",
    data=data.Digits(),
    defense=defenses.Untrained(nets.Pixels()),
    classifier=fit.KNN(layers=("pixels",), k=1),
    attacks={
        "minimum_norm": attacks.MinimumNorm(),
        "guided": attacks.Guided(),
        "boundary": attacks.Boundary(),
        "pgd": attacks.PGD(),
        "ask": attacks.ASK(),
    },
    certificates={
        "margin": certificates.Margin(),
        "voronoi": certificates.Voronoi(),
        "exact": certificates.Exact(),
    },
    evaluate=Evaluate(norms=("l2", "linf"), radii=(0.5, 0.75, 1.0, 5.0), radii_linf=(0.5, 2.0)),
    paper=Paper(
        title="A <paper>",
        authors="A. Author",
        year=2020,
        link="https://arxiv.org/abs/2001.00001",
        figures={"pixels": {"mean_l2": 2.1054, "acc_l2_1": 0.91}},
    ),
)
L2, LINF = ("minimum_norm", "l2"), ("minimum_norm", "linf")


def system():
    """A classifier of six random rows, by one neighbour."""
    rng = np.random.default_rng(0)
    images = rng.random((6, 3, 3, 1), np.float32)
    labels = np.arange(6, dtype=np.int32) % 2
    test = data.Split(rng.random((5, 3, 3, 1), np.float32), LABELS)
    dataset = data.Dataset(data.Split(images, labels), data.Split(images, labels), test, 2)
    model = classifiers.knn(None, jnp.asarray(images), jnp.asarray(labels), k=1)
    trained = defenses.Trained(RECIPE.defense.module(2), {})
    return System(dataset, model, 1.0, "fingerprint", RECIPE.classifier, RECIPE.defense, trained)


def attacked(norm=NORM, l2=None):
    """What an attack found."""
    arrays = {
        "image": np.full((len(norm), 3, 3, 1), 0.5, np.float32),
        "norm": norm,
        "l2": norm if l2 is None else l2,
        "success": np.isfinite(norm),
        "gradients": np.full(len(norm), 7),
        "adversarial": 1 - CLEAN[: len(norm)],
    }
    return Results(arrays, 1.25, 0.5)


def certified(radius=RADIUS):
    """What a certificate found."""
    return Results({"radius": radius}, 0.25, 0.125)
