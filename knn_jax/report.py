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
from rich.text import Text

from knn_jax import balls, diagnosis, entries, evaluation, figures, pages, progress, prototypes
from knn_jax.chunks import Outcome
from knn_jax.config import Config
from knn_jax.diagnosis import NOTHING, Diagnosis
from knn_jax.evaluation import Attacked
from knn_jax.files import whole
from knn_jax.recipes import Defended
from knn_jax.workdir import digest

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
        "test_digest": digest(*defended.dataset.test),
        "n": len(correct),
        "clean_acc": float(np.mean(correct)),
        "lipschitz": defended.lipschitz if math.isfinite(defended.lipschitz) else None,
        "attacks": [
            entries.attack(recipe, name, norm, outcome, correct)
            | entries.masked(attacked, name, norm, correct)
            for (name, norm), outcome in (attacked | worst_cases(attacked)).items()
        ],
        "certificates": [
            entries.certificate(recipe, name, o, correct) for name, o in certified.items()
        ],
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
    for table in pages.measured(report):
        console.print(pages.terminal(table))
    if report["violations"]:
        progress.say(f"{report['violations']} certified radii exceed an attack: a bug", "bold red")
    for file in ("report.html", "report.json", "results.csv", "adversarial.npz"):
        if (folder / file).exists():
            console.print(Text(f"{folder / file}"), soft_wrap=True)
