"""The report of a run: report.json, per-example results, pictures and one page that shows them."""

import csv
import io
import json
import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import cast

import jax
import numpy as np
from rich.console import Console
from rich.text import Text

from knn_jax import balls
from knn_jax.defenses import Untrained
from knn_jax.display import progress
from knn_jax.evaluation.attacked import Attacked, runs, worst
from knn_jax.evaluation.certified import Certified
from knn_jax.measures import Measured
from knn_jax.recipe import Recipe, finite
from knn_jax.recipe.fit import Prototypes, Retrieval, System
from knn_jax.report import figures, html, summary
from knn_jax.report.report import Report
from knn_jax.workdir import Place
from knn_jax.workdir.files import exists, whole

WORST = "least of all"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def write(
    recipe: Recipe,
    system: System,
    clean: np.ndarray,
    attacked: Attacked,
    certified: Certified,
    measured: Measured,
    folder: Place,
) -> Report:
    """Writes report.json, results.csv, adversarial.npz, report.html and its pictures.

    `clean` holds the predicted class of every test image, `attacked` the results by attack and norm,
    `certified` by certificate, `measured` what was measured besides. Returns the report.
    """
    own = {**recipe.defense.summary(system.trained), **measured.summary}
    report = cast(Report, {**reported(recipe, system, clean, attacked, certified), **own})
    labels = system.dataset.test.labels
    pictures = dict(measured.pictures)
    if attacked or certified:
        pictures["curve.png"] = figures.curve(
            report,
            attacked,
            certified,
            clean == labels,
            normalised=isinstance(recipe.classifier, Retrieval),
        )
    if attacked:
        first = next(iter(attacked.values()))
        pictures["examples.png"] = figures.examples(system, clean, first)
        if confusions := list(_confusions(recipe, attacked, labels, clean)):
            pictures["confusion.png"] = figures.confusion(confusions)
        if isinstance(recipe.classifier, Prototypes):
            pictures["lookalikes.png"] = figures.lookalikes(system, clean, first)
        if isinstance(recipe.classifier, Retrieval):
            pictures["retrieved.png"] = figures.retrieved(system, clean, first)
    searched = {pair: o for pair, o in attacked.items() if "trials" not in o.arrays}  # not in balls
    for norm in rivals(searched):
        pictures[f"norms_{norm}.png"] = figures.norms(report, searched, norm)
    for name, picture in pictures.items():
        _save(folder / name, picture)
    order = recipe.evaluate.order(len(labels))
    for name, certificate in recipe.certificates.items():
        found, n = certified[name], recipe.evaluate.to_certify
        each = labels[:n], order[:n], found.seconds / n
        for file, text in certificate.files(found.arrays, *each).items():
            _save(folder / file, text.encode())
    _save(folder / "results.csv", _csv(order, labels, clean, attacked, certified, measured).encode())
    if attacked:
        arrays = {f"{name}_{norm}": o.arrays["image"] for (name, norm), o in attacked.items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        _save(folder / "adversarial.npz", buffer.getvalue())
    _save(folder / "report.html", html.page(report, pictures).encode())
    _save(folder / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    return report


def reported(
    recipe: Recipe, system: System, clean: np.ndarray, attacked: Attacked, certified: Certified
) -> Report:
    """What report.json holds. Accuracies are over all n examples, a misclassified one never robust;
    norms, radii and success rates are over those classified correctly without an attack. Clean
    accuracy is over the whole test set, an attack's or certificate's n its first examples, in the order
    of `evaluate.image_seed`."""
    correct = clean == system.dataset.test.labels
    layer = recipe.classifier.label(recipe.defense)
    planned = {(run.label, run.norm): run for run in runs(recipe)}
    figures = recipe.paper.figures if recipe.paper else {}
    return {
        "name": recipe.name,
        "command": shlex.join(sys.argv),
        "paper": recipe.paper.told() if recipe.paper else None,
        "dataset": recipe.data.name,
        "decider": recipe.classifier.told(recipe.defense),
        "trained": trained(recipe),
        "weights": Path(recipe.defense.weights).stem,
        "layer": layer,
        "k": system.model.k,
        "bank_rows": len(getattr(system.model, "labels", ())),
        "fingerprint": system.fingerprint,
        "test_digest": system.dataset.test.digest(),
        "n": len(correct),
        "clean_acc": float(np.mean(correct)),
        "lipschitz": finite(system.lipschitz),
        "attacks": [
            *(
                {
                    **summary.attack(recipe, *key, results, correct),
                    "baseline": summary.of_a_paper(planned[key], recipe),
                    **summary.masked(planned[key], attacked, correct),
                }
                for key, results in attacked.items()
            ),
            *(
                {**summary.attack(recipe, *key, results, correct), "baseline": False}
                for key, results in worst_cases(attacked).items()
            ),
        ],
        "certificates": [
            summary.certificate(recipe, name, recipe.certificates[name], results, correct)
            for name, results in certified.items()
        ],
        "violations": violations(recipe, attacked, certified),
        "reported": dict(figures.get(layer, {})),
        "reported_attacks": {
            key.removeprefix(f"{layer}, "): dict(part)
            for key, part in figures.items()
            if key.startswith(f"{layer}, ")
        },
        "config": recipe.told(),
        "hardware": _hardware(),
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in PACKAGES},
    }


def trained(recipe: Recipe) -> str:
    """For how long the network was trained, and on how many images if not on all."""
    if recipe.defense.weights:
        return "given weights"
    if isinstance(recipe.defense, Untrained):
        return ""
    images = recipe.data.train_images
    return f"{recipe.optim.epochs} epochs" + (f" of {images} images" if images else "")


def worst_cases(attacked: Attacked) -> Attacked:
    """The least perturbation of each image, for each norm in which there are several attacks."""
    return {
        (WORST, norm): worst([o for (_, of), o in attacked.items() if of == norm])
        for norm in rivals(attacked)
    }


def _confusions(recipe: Recipe, attacked: Attacked, labels, clean):
    """For each norm the classes given within the first radius by the strongest attack."""
    norms: list[balls.Norm] = [norm for _, norm in attacked]
    for norm in dict.fromkeys(norms):
        outcome = worst([o for (_, of), o in attacked.items() if of == norm])
        arrays, radii = outcome.arrays, recipe.evaluate.within(norm)
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


def violations(recipe: Recipe, attacked: Attacked, certified: Certified) -> int:
    """Certified radii that are above the norm of an attack on the example: must be none. A certificate
    of another classifier, as a smoothed one, says nothing of attacks on this."""
    count = 0
    for name, outcome in certified.items():
        made, radius = recipe.certificates[name], outcome.arrays["radius"]
        for found in attacked.values() if made.of_features else ():
            length = found.arrays[made.norm]
            count += int(np.sum(radius[: len(length)] > length[: len(radius)]))
    return count


def _hardware() -> dict[str, str | int | None]:
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cpu_cores": os.cpu_count(),
        "machine": platform.machine(),
    }


def _save(file: Place, content: bytes) -> None:
    with whole(file) as scratch:
        scratch.write_bytes(content)


def _csv(order, labels, clean, attacked, certified, measured) -> str:
    """One line a test image, by its index in the data: what was decided, found and measured."""
    columns = {"label": labels, "clean": clean}
    for (name, norm), outcome in attacked.items():
        columns[f"{name}_{norm}_adversarial"] = outcome.arrays["adversarial"]
        columns[f"{name}_{norm}_norm"] = outcome.arrays["norm"]
    for name, outcome in certified.items():
        columns[f"{name}_radius"] = outcome.arrays["radius"]
    columns |= measured.columns
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", *columns])
    for i, index in enumerate(order):
        writer.writerow([index, *(c[i] if i < len(c) else "" for c in columns.values())])
    return text.getvalue()


def show(report: Report, folder: Place) -> None:
    """The table and the paths of what was written, on standard output."""
    console = Console(width=None if Console().is_terminal else 120)
    console.print(html.table(report))
    for table in html.measured(report):
        console.print(html.terminal(table))
    if cited := html.cited(report):
        console.print(Text(cited), soft_wrap=True)
    if report["violations"]:
        progress.say(f"{report['violations']} certified radii exceed an attack: a bug", "bold red")
    for file in ("report.html", "report.json", "results.csv", "adversarial.npz"):
        if exists(folder / file):
            console.print(Text(f"{folder / file}"), soft_wrap=True)
