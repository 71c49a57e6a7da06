"""What report.json tells of each attack and certificate: numbers made of their outcomes."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from scipy import stats

from knn_jax import balls
from knn_jax.attacks import BallAttack, Boundary
from knn_jax.certificates import Certificate
from knn_jax.evaluation.attacked import FLAGS, Attacked, Run
from knn_jax.evaluation.resumable import Results
from knn_jax.recipe import Recipe
from knn_jax.recipe.fit import Retrieval
from knn_jax.report.report import Besides, CertificateEntry, Outcome, Times


def attack(
    recipe: Recipe, name: str, norm: balls.Norm, outcome: Results, correct: np.ndarray
) -> Outcome:
    """Of one attack: success and norms of images that are classified correctly, accuracies of all; and
    on how many of those that are right it had no gradient to follow, or ran out of its steps."""
    arrays = outcome.arrays
    lengths, n = arrays["norm"], len(arrays["norm"])
    right = correct[:n] & (lengths > 0)
    found = lengths[right & arrays["success"]]
    radii = recipe.evaluate.within(norm)
    return {
        "name": name,
        "norm": norm,
        "n": n,
        "success_rate": float(len(found) / max(1, right.sum())),
        "mean_norm": _mean(found),
        "median_norm": float(np.median(found)) if len(found) else None,
        **_normalised(norm, found, arrays),
        "robust_acc": {str(r): float(np.mean(right & (lengths > r))) for r in radii},
        "gradients": int(arrays["gradients"].max()),
        **_flags(arrays, right),
        **_times(outcome),
        **_trials(arrays, radii, correct[:n]),
    }


def masked(run: Run, attacked: Attacked, correct: np.ndarray) -> Besides:
    """Beside the boundary attack, the share of right images on which it finds less by decisions alone:
    there the gradients that the attack followed tell too little. (In a ball none looks for less.)"""
    blind = attacked.get(("boundary", run.norm))
    if blind is None or isinstance(run.attack, BallAttack | Boundary):
        return {}
    both = zip(
        blind.arrays["norm"], attacked[run.label, run.norm].arrays["norm"], correct, strict=False
    )
    less = [bool(one < other) for one, other, right in both if right]
    return {"masked": float(np.mean(less))} if less else {}


def of_a_paper(run: Run, recipe: Recipe) -> bool:
    """Whether a paper's evaluation has this attack. (Zhao & Cho 2018 never had the retrieval inside the
    gradient.)"""
    own = run.attack.follows is not None and run.source == "model"
    return run.attack.baseline and not (own and isinstance(recipe.classifier, Retrieval))


def _normalised(norm: balls.Norm, found: np.ndarray, arrays: dict[str, np.ndarray]) -> Besides:
    """The mean of squared norms over the number of pixels, as Zhao & Cho 2018 measure them."""
    return {"mean_normalised": _mean(found**2 / arrays["image"][0].size)} if norm == "l2" else {}


def _flags(arrays: dict[str, np.ndarray], right: np.ndarray) -> Besides:
    """On how many images that are right the attack had no gradient, or ran out of steps."""
    found: Besides = {}
    for flag in FLAGS:
        if flag in arrays:
            found[flag] = int(np.sum(arrays[flag] & right))
    return found


def _trials(arrays: dict[str, np.ndarray], radii, correct) -> Besides:
    """Of an attack in balls: over several trials the mean accuracy and how far its 95% interval goes.

    Of ask what it chose, how much the images that fell tell of their class before and after, and the
    share of images whose 50 nearest rows agree, of those that fell and those that resisted.
    """
    found: Besides = {}
    if "confidence" in arrays:
        found["temperature"] = arrays["temperature"][0].tolist()
        found["weights"] = arrays["weights"][0].tolist()
        right = correct & (arrays["norm"] > 0)
        fell, resisted = right & arrays["success"], right & ~arrays["success"]
        found["information"] = {
            "clean": _mean(arrays["information_clean"][fell]),
            "adversarial": _mean(arrays["information_adversarial"][fell]),
        }
        agree = arrays["confidence"] == 1
        found["agreed"] = {"fell": _mean(agree[fell]), "resisted": _mean(agree[resisted])}
    trials = arrays.get("trials", np.zeros((0, 1)))
    count = trials.shape[1]
    if count > 1:
        accuracy = {str(r): np.mean(correct[:, None] & (trials > r), 0) for r in radii}
        found["trials"] = count
        found["mean_acc"] = {r: float(a.mean()) for r, a in accuracy.items()}
        half = stats.t.ppf(0.975, count - 1) / count**0.5
        found["interval"] = {r: float(half * a.std(ddof=1)) for r, a in accuracy.items()}
    return found


def certificate(
    recipe: Recipe, name: str, made: Certificate, outcome: Results, correct: np.ndarray
) -> CertificateEntry:
    """Of one certificate; its radii count of images that the certified classifier has right."""
    radius, n = outcome.arrays["radius"], len(outcome.arrays["radius"])
    right = outcome.arrays.get("right", correct[:n])
    told = {
        **certified(name, made.norm, radius, right, recipe.evaluate.within(made.norm), outcome),
        "mean_radius_all": float(np.where(right, radius, 0.0).mean()),
        **made.summary(outcome.arrays, right),
    }
    return cast(CertificateEntry, told)


def certified(
    name: str,
    norm: balls.Norm,
    radius: np.ndarray,
    right: np.ndarray,
    radii: Sequence[float],
    outcome: Results,
) -> CertificateEntry:
    """What all certificates tell: radii in their norm, and how long they took."""
    return {
        "name": name,
        "norm": norm,
        "n": len(radius),
        "mean_radius": _mean(radius[right]),
        "certified_acc": {str(r): float(np.mean(right & (radius >= r))) for r in radii},
        **_times(outcome),
    }


def _times(outcome: Results) -> Times:
    return {
        "seconds": round(outcome.seconds, 3),
        "compile_seconds": round(outcome.compile_seconds, 3),
    }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
