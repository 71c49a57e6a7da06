"""Attacks on classifiers that decide by neighbours: retrieval and vote are inside the gradient."""

from knn_jax.attacks.adv_knn import AdvKNN, adv_knn, imitate
from knn_jax.attacks.ask import ASK, ask, tune
from knn_jax.attacks.attack import Attack, BallAttack, MinimizationAttack, Plan, Victim
from knn_jax.attacks.blended_noise import BlendedNoise, blended_noise
from knn_jax.attacks.boundary import Boundary, boundary
from knn_jax.attacks.carlini_wagner import CarliniWagner, carlini_wagner
from knn_jax.attacks.deepfool import DeepFool, deepfool
from knn_jax.attacks.dknn import DKNN, dknn
from knn_jax.attacks.fgsm import FGSM, IFGSM, fgsm, ifgsm
from knn_jax.attacks.guided import Guided, guided
from knn_jax.attacks.hinged import Hinged, hinged
from knn_jax.attacks.information import information
from knn_jax.attacks.judgement import Found, judge
from knn_jax.attacks.kfgsm import KFGSM, kfgsm
from knn_jax.attacks.lbfgs import LBFGS, lbfgs
from knn_jax.attacks.minimum_norm import MinimumNorm, minimum_norm
from knn_jax.attacks.pgd import PGD, LossPGD, pgd

__all__ = [
    "ASK",
    "DKNN",
    "FGSM",
    "IFGSM",
    "KFGSM",
    "LBFGS",
    "PGD",
    "AdvKNN",
    "Attack",
    "BallAttack",
    "BlendedNoise",
    "Boundary",
    "CarliniWagner",
    "DeepFool",
    "Found",
    "Guided",
    "Hinged",
    "LossPGD",
    "MinimizationAttack",
    "MinimumNorm",
    "Plan",
    "Victim",
    "adv_knn",
    "ask",
    "blended_noise",
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
