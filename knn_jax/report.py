"""The report of a run: report.json, per-example results, pictures and one page that shows them."""

import csv
import io
import itertools
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from knn_jax import balls, diagnosis, evaluation, figures, pages, progress, prototypes
from knn_jax.chunks import Outcome
from knn_jax.config import Config
from knn_jax.diagnosis import NOTHING, Diagnosis
from knn_jax.evaluation import Attacked
from knn_jax.kinds import KINDS
from knn_jax.recipes import Defended
from knn_jax.workdir import whole

WORST = "least of all"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def write(
    recipe: Config,
    defended: Defended,
    clean: np.ndarray,
    attacked: Attacked,
    certified: dict[str, Outcome],
    folder: Path,
    found: Diagnosis = NOTHING,
    smoothed: dict[str, Any] | None = None,
    drawn: Mapping[str, bytes] = MappingProxyType({}),
) -> dict[str, Any]:
    """Writes report.json, results.csv, adversarial.npz, report.html and its pictures.

    `clean` holds the predicted class of every test image, `attacked` the outcomes by attack and norm,
    `certified` by certificate, `found` what was measured besides, `smoothed` the entry of the smoothed
    classifier, `drawn` more pictures. Returns the report.
    """
    report = summary(recipe, defended, clean, attacked, certified)
    report |= diagnosis.summary(recipe, found) | ({"smoothing": smoothed} if smoothed else {})
    if recipe.defense.name == "repulsive":
        rows = defended.net[0].rows(defended.net[1])[:, 0]
        report["separation"] = float(prototypes.separation(rows, recipe.defense.distance))
    labels = defended.dataset.test.labels
    pictures = dict(drawn)
    if attacked or certified:
        pictures["curve.png"] = figures.curve(report, attacked, certified, clean == labels)
    if attacked:
        first = next(iter(attacked.values()))
        pictures["examples.png"] = figures.examples(defended, clean, first)
        if confusions := list(_confusions(recipe, attacked, labels, clean)):
            pictures["confusion.png"] = figures.confusion(confusions)
        if recipe.classifier.name == "prototypes":
            pictures["lookalikes.png"] = figures.lookalikes(defended, clean, first)
        if recipe.classifier.name == "retrieval":
            pictures["retrieved.png"] = figures.retrieved(defended, clean, first)
    searched = {pair: o for pair, o in attacked.items() if "trials" not in o.arrays}  # not in balls
    for norm in rivals(searched):
        pictures[f"norms_{norm}.png"] = figures.norms(report, searched, norm)
    if found.credibility:
        pictures["credibility.png"] = figures.credibility(report, found.credibility)
    for name, picture in pictures.items():
        _save(folder / name, picture)
    _save(folder / "results.csv", _csv(labels, clean, attacked, certified, found).encode())
    if attacked:
        arrays = {f"{name}_{norm}": o.arrays["image"] for (name, norm), o in attacked.items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        _save(folder / "adversarial.npz", buffer.getvalue())
    _save(folder / "report.html", pages.page(report, pictures).encode())
    _save(folder / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    return report


def summary(
    recipe: Config,
    defended: Defended,
    clean: np.ndarray,
    attacked: Attacked,
    certified: dict[str, Outcome],
) -> dict[str, Any]:
    """What report.json holds. Accuracies are over all n examples, a misclassified one never robust;
    norms, radii and success rates are over those classified correctly without an attack. Clean
    accuracy is over the whole test set, an attack's or certificate's n its first examples."""
    model, correct = defended.model, clean == defended.dataset.test.labels
    config, named = recipe.asdict(), recipe.classifier.name
    told = config.pop("reported")
    chosen = recipe.classifier.layers if named == "knn" else recipe.defense.layers
    layers = {"network": "output", "prototypes": "prototypes"}.get(named, "+".join(chosen))
    return {
        "name": recipe.name,
        "command": shlex.join(sys.argv),
        "dataset": recipe.data.name,
        "architecture": recipe.net.name,
        "layer": layers,
        "metric": recipe.classifier.metric,
        "k": model.k,
        "bank_rows": len(getattr(model, "labels", ())),
        "fingerprint": defended.fingerprint,
        "n": len(correct),
        "clean_acc": float(np.mean(correct)),
        "lipschitz": defended.lipschitz if math.isfinite(defended.lipschitz) else None,
        "attacks": [
            _attack(recipe, name, norm, outcome, correct) | _masked(attacked, name, norm, correct)
            for (name, norm), outcome in (attacked | worst_cases(attacked)).items()
        ],
        "certificates": [_certificate(recipe, name, o, correct) for name, o in certified.items()],
        "violations": violations(attacked, certified),
        "reported": told.get(layers, {}),
        "reported_attacks": {
            key.removeprefix(f"{layers}, "): figures
            for key, figures in told.items()
            if key.startswith(f"{layers}, ")
        },
        "config": config,
        "hardware": _hardware(),
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in PACKAGES},
    }


def worst_cases(attacked: Attacked) -> Attacked:
    """The least perturbation of each image, for each norm in which there are several attacks."""
    return {
        (WORST, norm): evaluation.worst([o for (_, of), o in attacked.items() if of == norm])
        for norm in rivals(attacked)
    }


def _confusions(recipe: Config, attacked: Attacked, labels, clean):
    """For each norm the classes given within the first radius by the strongest attack."""
    norms: list[balls.Norm] = [norm for _, norm in attacked]
    for norm in dict.fromkeys(norms):
        outcome = evaluation.worst([o for (_, of), o in attacked.items() if of == norm])
        arrays, radii = outcome.arrays, recipe.attack.within(norm)
        if not radii:
            continue
        count, radius = len(arrays["norm"]), radii[0]
        given = np.where(arrays["norm"] <= radius, arrays["adversarial"], clean[:count])
        given = np.where(arrays["norm"] > 0, given, clean[:count])
        yield f"{recipe.name}: within {radius:g} in {norm}", labels[:count], given


def rivals(attacked: Attacked) -> list[balls.Norm]:
    """The norms in which there are several attacks."""
    norms: list[balls.Norm] = [norm for _, norm in attacked]
    return [norm for norm in dict.fromkeys(norms) if norms.count(norm) > 1]


def violations(attacked: Attacked, certified: dict[str, Outcome]) -> int:
    """Certified radii that are above the L2 norm of an attack on the example: must be none."""
    pairs = itertools.product(
        (outcome.arrays["radius"] for outcome in certified.values()),
        (outcome.arrays["l2"] for outcome in attacked.values()),
    )
    return sum(int(np.sum(radius[: len(l2)] > l2[: len(radius)])) for radius, l2 in pairs)


def _attack(
    recipe: Config, name: str, norm: balls.Norm, outcome: Outcome, correct: np.ndarray
) -> dict[str, Any]:
    arrays = outcome.arrays
    lengths, n = arrays["norm"], len(arrays["norm"])
    right = correct[:n] & (lengths > 0)
    found = lengths[right & arrays["success"]]
    radii = recipe.attack.within(norm)
    return {
        "name": name,
        "norm": norm,
        "n": n,
        "success_rate": float(len(found) / max(1, right.sum())),
        "mean_norm": float(found.mean()) if len(found) else None,
        "median_norm": float(np.median(found)) if len(found) else None,
        **({"mean_normalised": _normalised(found, arrays["image"])} if norm == "l2" else {}),
        "robust_acc": {str(r): float(np.mean(right & (lengths > r))) for r in radii},
        "gradients": int(arrays["gradients"].max()),
        "seconds": round(outcome.seconds, 3),
        "compile_seconds": round(outcome.compile_seconds, 3),
        **_trials(arrays, radii, correct[:n]),
    }


def _masked(attacked: Attacked, name: str, norm: balls.Norm, correct: np.ndarray) -> dict[str, float]:
    """Beside the boundary attack, the share of right images on which it finds less by decisions alone:
    there the gradients that the attack followed tell too little. (In a ball none looks for less.)"""
    blind, kind = attacked.get(("boundary", norm)), KINDS.get(name.partition(" on ")[0])
    if blind is None or kind is None or kind.ball or name == "boundary":
        return {}
    both = zip(blind.arrays["norm"], attacked[name, norm].arrays["norm"], correct, strict=False)
    less = [bool(one < other) for one, other, right in both if right]
    return {"masked": float(np.mean(less))} if less else {}


def _trials(arrays: dict[str, np.ndarray], radii, correct) -> dict[str, Any]:
    """Of an attack in balls: over several trials the mean accuracy and how far its 95% interval goes.

    Of ask what it chose, how much the images that fell tell of their class before and after, and the
    share of images whose 50 nearest rows agree, of those that fell and those that resisted.
    """
    found: dict[str, Any] = {}
    if "confidence" in arrays:
        found |= {name: arrays[name][0].tolist() for name in ("temperature", "weights")}
        right = correct & (arrays["norm"] > 0)
        fell, resisted = right & arrays["success"], right & ~arrays["success"]
        found["information"] = {
            kind: _mean(arrays[f"information_{kind}"][fell]) for kind in ("clean", "adversarial")
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


def _normalised(found: np.ndarray, images: np.ndarray) -> float | None:
    """The mean of squared norms over the number of pixels, the measure of paper 2."""
    return _mean(found**2 / images[0].size)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _certificate(recipe: Config, name: str, outcome: Outcome, correct: np.ndarray) -> dict[str, Any]:
    radius, n = outcome.arrays["radius"], len(outcome.arrays["radius"])
    right = correct[:n]
    return {
        "name": name,
        "norm": "l2",
        "n": n,
        "mean_radius": float(radius[right].mean()) if right.any() else None,
        "mean_radius_all": float(np.where(right, radius, 0.0).mean()),
        "certified_acc": {str(r): float(np.mean(right & (radius >= r))) for r in recipe.attack.radii},
        **({"closed": float(outcome.arrays["closed"].mean())} if "closed" in outcome.arrays else {}),
        "seconds": round(outcome.seconds, 3),
        "compile_seconds": round(outcome.compile_seconds, 3),
    }


def _hardware() -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cpu_cores": os.cpu_count(),
        "machine": platform.machine(),
    }


def _save(file: Path, content: bytes) -> None:
    with whole(file) as scratch:
        scratch.write_bytes(content)


def _csv(labels, clean, attacked, certified, found) -> str:
    """One line a test image: what was decided, found, certified and measured."""
    columns = {"label": labels, "clean": clean}
    for (name, norm), outcome in attacked.items():
        columns[f"{name}_{norm}_adversarial"] = outcome.arrays["adversarial"]
        columns[f"{name}_{norm}_norm"] = outcome.arrays["norm"]
    for name, outcome in certified.items():
        columns[f"{name}_radius"] = outcome.arrays["radius"]
    if found.features:
        columns |= found.features.arrays
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", *columns])
    for i in range(len(labels)):
        writer.writerow([i, *(c[i] if i < len(c) else "" for c in columns.values())])
    return text.getvalue()


def show(report: dict[str, Any], folder: Path) -> None:
    """The table and the paths of what was written, on standard output."""
    console = Console(width=None if Console().is_terminal else 120)
    console.print(pages.table(report))
    for head, *lines in pages.measured(report):
        shown = Table(*head)
        for line in lines:
            shown.add_row(*line)
        console.print(shown)
    if report["violations"]:
        progress.say(f"[bold red]{report['violations']} certified radii exceed an attack: a bug[/]")
    for file in ("report.html", "report.json", "results.csv", "adversarial.npz"):
        if (folder / file).exists():
            console.print(f"{folder / file}", soft_wrap=True, highlight=False)
