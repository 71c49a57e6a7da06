"""A report as a table in the terminal, a page and a line of Markdown."""

import base64
import html
import json
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

COLUMNS = ("", "norm", "n", "success", "mean", "median", "accuracy within radius", "seconds")


def headline(report: dict[str, Any]) -> str:
    """What was evaluated, in one line."""
    given = Path(report["config"]["net"]["weights"]).name
    return (
        f"{report['name']}{given and f' with {given}'}: {report['k']}-NN on {report['layer']}, "
        f"{report['bank_rows']} rows; "
        f"clean accuracy {report['clean_acc']:.4f} of {report['n']}"
    )


def rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Each attack and certificate as one text for each of COLUMNS."""

    def row(name, entry, success, mean, median, accuracies):
        numbers = ("" if v is None else f"{v:.3f}" for v in (success, mean, median))
        within = "  ".join(f"{radius}: {value:.3f}" for radius, value in accuracies.items())
        return name, entry["norm"], str(entry["n"]), *numbers, within, f"{entry['seconds']:.1f}"

    attacks = (
        row(a["name"], a, a["success_rate"], a["mean_norm"], a["median_norm"], a["robust_acc"])
        for a in report["attacks"]
    )
    certificates = (
        row(f"certified: {c['name']}", c, None, c["mean_radius"], None, c["certified_acc"])
        for c in report["certificates"]
    )
    return [*attacks, *certificates]


def table(report: dict[str, Any]) -> Table:
    """For the terminal."""
    shown = Table(title=headline(report))
    for column in COLUMNS:
        shown.add_column(column, justify="left" if column in COLUMNS[:2] else "right")
    for row in rows(report):
        shown.add_row(*row)
    return shown


def markdown(report: dict[str, Any]) -> str:
    """For the README: what was run where, and the same table."""
    hardware = report["hardware"]
    where = f"{hardware['device']}, {hardware['cpu_cores']} cores, jax {report['versions']['jax']}"
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows(report)]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"**{headline(report)}** ({where})\n\n{body}\n"


def page(report: dict[str, Any], pictures: dict[str, bytes]) -> str:
    """One HTML file with everything inside."""
    head = "".join(f"<th>{column}</th>" for column in COLUMNS)
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows(report))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
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
<p>{html.escape(headline(report))}. Accuracies are over all images, a misclassified one is never
robust; norms are over successful attacks on correctly classified images. Certified radii above an
attack's norm: {report["violations"]}. Lipschitz constant of the features: at most
{report["lipschitz"]:.4g}.</p>
<table><tr>{head}</tr>{body}</table>
{told}
{images}
<details><summary>report.json</summary><pre>{details}</pre></details>
</body></html>
"""


if __name__ == "__main__":  # python -m knn_jax.pages results/*.json
    print("\n".join(markdown(json.loads(Path(file).read_text())) for file in sys.argv[1:]))
