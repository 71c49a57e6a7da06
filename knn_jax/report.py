"""The report of a run: report.json, per-example results, pictures and one page that shows them."""

import base64
import csv
import html
import io
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

from knn_jax import neighbors, progress
from knn_jax.config import Config
from knn_jax.evaluation import Defended, Outcome
from knn_jax.workdir import whole

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SHOWN = 8  # examples in the grid
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def write(
    recipe: Config,
    defended: Defended,
    attacked: dict[str, Outcome],
    certified: dict[str, Outcome],
    folder: Path,
) -> dict[str, Any]:
    """Writes report.json, results.csv, adversarial.npz, curve.png, examples.png and report.html.

    `attacked` holds the outcomes by norm, `certified` by certificate. Returns the report.
    """
    report = summary(recipe, defended, attacked, certified)
    labels = defended.dataset.test.labels
    pictures = {"curve.png": _curve(report, attacked, certified, labels)}
    if "l2" in attacked or "linf" in attacked:
        first = attacked.get("l2") or attacked["linf"]
        pictures["examples.png"] = _examples(recipe, defended, first)
    for name, picture in pictures.items():
        _save(folder / name, picture)
    _save(folder / "results.csv", _csv(labels, attacked, certified).encode())
    if attacked:
        arrays = {f"{norm}_image": outcome.arrays["image"] for norm, outcome in attacked.items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        _save(folder / "adversarial.npz", buffer.getvalue())
    _save(folder / "report.html", _page(report, pictures).encode())
    _save(folder / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    return report


def summary(
    recipe: Config, defended: Defended, attacked: dict[str, Outcome], certified: dict[str, Outcome]
) -> dict[str, Any]:
    """What report.json holds. Accuracies are over all n examples, a misclassified one never robust;
    norms and success rates are over those classified correctly without an attack."""
    model, labels = defended.model, defended.dataset.test.labels
    outcomes = [*attacked.values(), *certified.values()]
    clean = max((o.arrays["clean"] for o in outcomes), key=len)
    config = recipe.asdict()
    return {
        "name": recipe.name,
        "dataset": recipe.data.name,
        "architecture": recipe.net.name,
        "layer": "+".join(recipe.classifier.layers),
        "metric": "l2",
        "k": model.k,
        "bank_rows": len(model.labels),
        "fingerprint": defended.fingerprint,
        "n": len(clean),
        "clean_acc": float(np.mean(clean == labels[: len(clean)])),
        "lipschitz": defended.lipschitz,
        "attacks": [_attack(recipe, norm, o, labels) for norm, o in attacked.items()],
        "certificates": [_certificate(recipe, name, o, labels) for name, o in certified.items()],
        "violations": violations(attacked, certified),
        "reported": config.pop("reported"),
        "config": config,
        "hardware": _hardware(),
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in PACKAGES},
    }


def violations(attacked: dict[str, Outcome], certified: dict[str, Outcome]) -> int:
    """Examples whose certified radius is above the L2 norm of an attack on them: must be none."""
    if "l2" not in attacked:
        return 0
    norm = attacked["l2"].arrays["norm"]
    pairs = ((o.arrays["radius"], norm) for o in certified.values())
    return int(sum(np.sum(r[: len(n)] > n[: len(r)]) for r, n in pairs))


def _attack(recipe: Config, norm: str, outcome: Outcome, labels: np.ndarray) -> dict[str, Any]:
    arrays = outcome.arrays
    lengths, n = arrays["norm"], len(arrays["norm"])
    right = (arrays["clean"] == labels[:n]) & (lengths > 0)
    found = lengths[right & arrays["success"]]
    radii = recipe.attack.radii if norm == "l2" else recipe.attack.radii_linf
    return {
        "name": "minimum_norm",
        "norm": norm,
        "n": n,
        "success_rate": float(len(found) / max(1, right.sum())),
        "mean_norm": float(found.mean()) if len(found) else None,
        "median_norm": float(np.median(found)) if len(found) else None,
        "robust_acc": {str(r): float(np.mean(right & (lengths > r))) for r in radii},
        "gradients": int(arrays["gradients"].max()),
        "seconds": round(outcome.seconds, 3),
        "compile_seconds": round(outcome.compile_seconds, 3),
    }


def _certificate(recipe: Config, name: str, outcome: Outcome, labels: np.ndarray) -> dict[str, Any]:
    radius, n = outcome.arrays["radius"], len(outcome.arrays["radius"])
    right = outcome.arrays["clean"] == labels[:n]
    return {
        "name": name,
        "norm": "l2",
        "n": n,
        "mean_radius": float(np.where(right, radius, 0.0).mean()),
        "mean_radius_correct": float(radius[right].mean()) if right.any() else None,
        "certified_acc": {str(r): float(np.mean(right & (radius >= r))) for r in recipe.attack.radii},
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


def _csv(labels, attacked, certified) -> str:
    """One line an example: what was decided, the norms found and the radii certified."""
    columns: dict[str, np.ndarray] = {}
    for norm, outcome in attacked.items():
        columns.setdefault("clean", outcome.arrays["clean"])
        columns[f"{norm}_adversarial"] = outcome.arrays["adversarial"]
        columns[f"{norm}_norm"] = outcome.arrays["norm"]
    for name, outcome in certified.items():
        if len(outcome.arrays["clean"]) > len(columns.get("clean", ())):
            columns["clean"] = outcome.arrays["clean"]
        columns[f"{name}_radius"] = outcome.arrays["radius"]
    rows = max(map(len, columns.values()))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", "label", *columns])
    for i in range(rows):
        cells = [column[i] if i < len(column) else "" for column in columns.values()]
        writer.writerow([i, labels[i], *cells])
    return text.getvalue()


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def _curve(report, attacked, certified, labels) -> bytes:
    """Accuracy against the L2 (and Linf) norm: what attacks leave and what is certified."""
    norms = ["l2", *(norm for norm in attacked if norm != "l2")]
    figure, axes = plt.subplots(
        1, len(norms), figsize=(6.4 * len(norms), 4), squeeze=False, layout="constrained"
    )
    for norm, axis in zip(norms, axes[0], strict=True):
        if norm in attacked:
            arrays = attacked[norm].arrays
            right = arrays["clean"] == labels[: len(arrays["norm"])]
            lengths = np.where(right, arrays["norm"], 0.0)
            _steps(axis, lengths, "after minimum_norm", "C3")
        if norm == "l2":
            for color, (name, outcome) in zip(("C0", "C2"), certified.items(), strict=False):
                right = outcome.arrays["clean"] == labels[: len(outcome.arrays["radius"])]
                radius = np.where(right, outcome.arrays["radius"], 0.0)
                _steps(axis, radius, f"certified: {name}", color)
        axis.set(xlabel=f"{norm} norm of the perturbation", ylabel="accuracy", ylim=(0, 1.02))
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(f"{report['name']}: {report['k']}-NN on {report['layer']}")
    return _png(figure)


def _steps(axis, lengths, label, color) -> None:
    """The share of examples whose length is above each value."""
    finite = np.sort(lengths[np.isfinite(lengths)])
    share = 1 - np.arange(1, len(finite) + 1) / len(lengths)
    start = np.mean(lengths > 0)
    axis.step(np.r_[0, finite], np.r_[start, share], where="post", label=label, color=color)


def _examples(recipe: Config, defended: Defended, outcome: Outcome) -> bytes:
    """Clean, adversarial and perturbation, and the neighbours that left and came."""
    arrays, test, model = outcome.arrays, defended.dataset.test, defended.model
    correct = arrays["clean"] == test.labels[: len(arrays["clean"])]
    shown = np.flatnonzero(correct & arrays["success"] & (arrays["norm"] > 0))[:SHOWN]
    titles = ["clean", "adversarial", "perturbation"]
    titles += [f"{which} neighbour {i}" for which in ("lost", "new") for i in (1, 2, 3)]
    figure, axes = plt.subplots(
        max(1, len(shown)),
        len(titles),
        figsize=(1.35 * len(titles), 1.5 * max(1, len(shown)) + 0.4),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    x, changed = test.floats(0, len(correct))[shown], arrays["image"][shown]
    before = after = np.zeros((0, model.k), int)
    if len(shown):
        before, after = (np.asarray(_neighbours(model, images)) for images in (x, changed))
    for row, i in enumerate(shown):
        lost = [j for j in before[row] if j not in set(after[row])][:3]
        came = [j for j in after[row] if j not in set(before[row])][:3]
        delta = changed[row] - x[row]
        delta = 0.5 + delta / (2 * np.abs(delta).max())
        images = [x[row], changed[row], delta]
        names = [str(arrays["clean"][i]), str(arrays["adversarial"][i]), f"{arrays['norm'][i]:.2f}"]
        places = [0, 1, 2, *range(3, 3 + len(lost)), *range(6, 6 + len(came))]
        images += [np.asarray(model.images[j]) for j in (*lost, *came)]
        names += [str(int(model.labels[j])) for j in (*lost, *came)]
        for place, image, name in zip(places, images, names, strict=True):
            axis = axes[row, place]
            axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1)
            axis.text(0.03, 0.95, name, transform=axis.transAxes, color="orange", va="top", fontsize=9)
    return _png(figure)


@jax.jit
def _neighbours(model, x):
    """Indices (batch, k) by the first tap."""
    return neighbors.search(model.features[0](x), model.banks[0], model.k).index


def table(report: dict[str, Any]) -> Table:
    """The report as one table."""
    shown = Table(title=_headline(report))
    for column in (
        "",
        "norm",
        "n",
        "success",
        "mean",
        "median",
        "accuracy within radius",
        "seconds",
    ):
        shown.add_column(column, justify="left" if column in ("", "norm") else "right")
    for row in _rows(report):
        shown.add_row(*row)
    return shown


def show(report: dict[str, Any], folder: Path) -> None:
    """The table and the paths of what was written, on standard output."""
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table(report))
    if report["violations"]:
        progress.say(f"[bold red]{report['violations']} certified radii exceed an attack: a bug[/]")
    for file in ("report.html", "report.json", "results.csv", "adversarial.npz"):
        if (folder / file).exists():
            console.print(f"{folder / file}", soft_wrap=True, highlight=False)


def _headline(report: dict[str, Any]) -> str:
    return (
        f"{report['name']}: {report['k']}-NN on {report['layer']}, {report['bank_rows']} rows; "
        f"clean accuracy {report['clean_acc']:.4f} of {report['n']}"
    )


def _rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Each attack and certificate as cells of text."""

    def number(value):
        return "-" if value is None else f"{value:.3f}"

    def accuracies(values):
        return "  ".join(f"{radius}: {value:.3f}" for radius, value in values.items())

    rows = []
    for a in report["attacks"]:
        cells = (
            a["name"],
            a["norm"],
            str(a["n"]),
            number(a["success_rate"]),
            number(a["mean_norm"]),
        )
        rows.append(
            (*cells, number(a["median_norm"]), accuracies(a["robust_acc"]), f"{a['seconds']:.1f}")
        )
    for c in report["certificates"]:
        cells = (
            f"certified: {c['name']}",
            c["norm"],
            str(c["n"]),
            "",
            number(c["mean_radius"]),
            "",
        )
        rows.append((*cells, accuracies(c["certified_acc"]), f"{c['seconds']:.1f}"))
    return rows


def _page(report: dict[str, Any], pictures: dict[str, bytes]) -> str:
    """One HTML file with everything inside."""
    head = "<tr><th></th><th>norm</th><th>n</th><th>success</th><th>mean</th><th>median</th>"
    head += "<th>accuracy within radius</th><th>seconds</th></tr>"
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in _rows(report)
    )
    images = "".join(
        f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
        for name, picture in pictures.items()
    )
    told = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value:g}</td></tr>"
        for name, value in report["reported"].items()
    )
    told = f"<h2>Reported by the paper</h2><table>{told}</table>" if told else ""
    details = html.escape(json.dumps(report, indent=2))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(report["name"])}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse }} td, th {{ padding: .2rem .8rem; border-bottom: 1px solid #ddd;
text-align: left; font-variant-numeric: tabular-nums }} img {{ max-width: 100%; margin: 1rem 0 }}
pre {{ background: #f6f6f6; padding: 1rem; overflow: auto }}
</style></head><body>
<h1>{html.escape(report["name"])}</h1>
<p>{html.escape(_headline(report))}. Accuracies are over all images, a misclassified one is never
robust; norms are over successful attacks on correctly classified images. Certified radii above an
attack's norm: {report["violations"]}. Lipschitz constant of the features: at most
{report["lipschitz"]:.4g}.</p>
<table>{head}{rows}</table>
{told}
{images}
<details><summary>report.json</summary><pre>{details}</pre></details>
</body></html>
"""
