"""Attacks on classifiers that decide by neighbours: retrieval and vote are inside the gradient."""

from knn_jax.attacks.ask import ask, information, tune
from knn_jax.attacks.boundary import boundary
from knn_jax.attacks.carlini_wagner import carlini_wagner
from knn_jax.attacks.deepfool import deepfool
from knn_jax.attacks.dknn import dknn
from knn_jax.attacks.fast_gradient import fgsm, ifgsm
from knn_jax.attacks.guided import guided
from knn_jax.attacks.hinged import hinged
from knn_jax.attacks.imitated import adv_knn, imitate
from knn_jax.attacks.kfgsm import kfgsm
from knn_jax.attacks.lbfgs import lbfgs
from knn_jax.attacks.minimal import minimum_norm
from knn_jax.attacks.outcome import Found, judge
from knn_jax.attacks.projected import pgd

__all__ = [
    "Found",
    "adv_knn",
    "ask",
    "boundary",
    "carlini_wagner",
    "deepfool",
    "dknn",
    "fgsm",
    "guided",
    "hinged",
    "ifgsm",
    "imitate",
    "information",
    "judge",
    "kfgsm",
    "lbfgs",
    "minimum_norm",
    "pgd",
    "tune",
]
