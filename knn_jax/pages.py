"""A report as a table in the terminal, a page and a line of Markdown."""

import base64
import html
import json
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from knn_jax import cli
from knn_jax.kinds import KINDS

COLUMNS = (
    *("", "norm", "n", "success", "mean", "median", "squared / pixels"),
    *("accuracy within radius", "seconds"),
)
FIGURES = ("", "", "n", "clean", "found", "mean", "accuracy within radius")
MASKED = 0.05  # of the images at least, on which the boundary attack finds less than one by gradients


def headline(report: dict[str, Any]) -> str:
    """What was evaluated, in one line."""
    given, rows = Path(report["config"]["net"]["weights"]).name, report["bank_rows"] or ""
    return (
        f"{report['name']}{given and f' with {given}'}: {decider(report)}{rows and f', {rows} rows'}; "
        f"clean accuracy {report['clean_acc']:.4f} of {report['n']}"
    )


def decider(report: dict[str, Any]) -> str:
    """What decides: 75-NN on relu3, ..."""
    match report["config"]["classifier"].get("name", "knn"):  # there was no other once
        case "network":
            return "the network alone"
        case "retrieval":
            return f"retrieval of {report['k']} by {report['layer']}"
        case _:
            return f"{report['k']}-NN on {report['layer']}"


def rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Each attack and certificate as one text for each of COLUMNS."""

    def row(name, entry, success, mean, median, accuracies):
        numbers = ("" if v is None else f"{v:.3f}" for v in (success, mean, median))
        normalised = entry.get("mean_normalised")  # the measure of paper 2
        per_pixel = "" if normalised is None else f"{normalised:.1e}"
        within = _within(accuracies), f"{entry['seconds']:.1f}"
        return name, entry["norm"], str(entry["n"]), *numbers, per_pixel, *within

    attacks = (
        row(_flagged(a), a, a["success_rate"], a["mean_norm"], a["median_norm"], _accuracies(a))
        for a in report["attacks"]
    )
    proven = [*report["certificates"], *_smoothed(report)]
    certificates = (
        row(f"certified: {_closed(c)}", c, None, c["mean_radius"], None, c["certified_acc"])
        for c in proven
    )
    return [*attacks, *certificates]


def measured(report: dict[str, Any]) -> list[list[tuple[str, ...]]]:
    """Tables of what was measured of features and votes, their heads first; those that there are."""
    tables = []
    if "analysis" in report:
        found = report["analysis"]
        dimension = "" if found["lid"] is None else f"{found['lid']:.3f}"
        head = ("layer", "n", "local dimension", "Jacobian norm")
        line = (found["layer"], str(found["n"]), dimension, f"{found['jacobian_norm']:.3f}")
        tables.append([head, line])
    asked = [entry for entry in report.get("attacks", ()) if "information" in entry]
    if asked:
        head = ("attack", "information, clean", "adversarial", "agreed: fell", "resisted")
        both = (
            *(("information", "clean"), ("information", "adversarial")),
            *(("agreed", "fell"), ("agreed", "resisted")),
        )
        lines = [
            (a["name"], *("" if a[of][which] is None else f"{a[of][which]:.3f}" for of, which in both))
            for a in asked
        ]
        tables.append([head, *lines])
    if "credibility" in report:
        lines = [
            (kind["images"], str(kind["n"]), f"{kind['credibility']:.3f}", f"{kind['confidence']:.3f}")
            for kind in report["credibility"]
        ]
        tables.append([("images", "n", "mean credibility", "mean confidence"), *lines])
    return tables


def table(report: dict[str, Any]) -> Table:
    """For the terminal."""
    shown = Table(title=headline(report))
    for column in COLUMNS:
        shown.add_column(column, justify="left" if column in COLUMNS[:2] else "right")
    for row in rows(report):
        shown.add_row(*row)
    return shown


def lines(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One for each of what the paper reported, its attack reproduced, the strongest and what is
    certified, as one text for each of FIGURES; those that there are."""
    name = _name(report)
    clean = f"{report['clean_acc']:.4f}"

    def line(what, n, clean, success, mean, accuracies):
        numbers = ("" if v is None else f"{v:.3f}" for v in (success, mean))
        return name, what, str(n), clean, *numbers, _within(accuracies)

    def reported(what, mean, prefix, told):
        accuracies = {k.removeprefix(prefix): v for k, v in told.items() if k.startswith(prefix)}
        own = f"{told['clean_acc']:.4f}" if "clean_acc" in told else ""
        there = mean in told or accuracies
        return [line(what, "", own, None, told.get(mean), accuracies)] if there else []

    def found(what, entry):
        norm = "" if entry["norm"] == "l2" else f", {entry['norm']}"
        of = entry["n"], clean, entry["success_rate"], entry["mean_norm"]
        return line(f"{what}{norm}", *of, _accuracies(entry))

    def of_a_paper(entry):
        attack, _, source = entry["name"].partition(" on ")
        kind = KINDS.get(attack)  # None: the least of all
        # Paper 2 never had the retrieval inside the gradient.
        retrieval = report["config"]["classifier"].get("name") == "retrieval"
        return kind and kind.paper and not (kind.sourced and not source and retrieval)

    told, of_attacks = report["reported"], report.get("reported_attacks", {})
    papers = [entry for entry in report["attacks"] if of_a_paper(entry)]
    ours = [entry for entry in report["attacks"] if not of_a_paper(entry)]
    strongest = {entry["norm"]: entry for entry in ours}  # the least of all comes last
    proven = report["certificates"][-1:]  # and so does the strongest certificate
    return [
        *reported("reported", "mean_l2", "acc_l2_", told),
        *reported("reported, linf", "mean_linf", "acc_linf_", told),
        *(
            line
            for attack, figures in of_attacks.items()
            for line in reported(f"reported, {attack}", "mean_l2", "acc_l2_", told | figures)
        ),
        *(found(f"reproduced, {_flagged(entry)}", entry) for entry in papers),
        *(found("adaptive", entry) for entry in strongest.values()),
        *reported("reported, certified", "mean_radius", "cert_", told),
        *(
            line(f"certified, {_closed(c)}", c["n"], clean, None, c["mean_radius"], c["certified_acc"])
            for c in proven
        ),
        *(  # a classifier of its own
            line(
                *(f"certified, {c['name']}", c["n"], f"{c['clean_acc']:.4f}", None),
                *(c["mean_radius"], c["certified_acc"]),
            )
            for c in _smoothed(report)
        ),
    ]


def markdown(reports: list[dict[str, Any]]) -> str:
    """For the README: the lines of all reports in one table."""
    return _pipes(FIGURES, [line for report in reports for line in lines(report)])


def measurements(reports: list[dict[str, Any]]) -> str:
    """For the README: what was measured, the same of all reports in one table."""
    tables: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for report in reports:
        for head, *lines in measured(report):
            tables.setdefault(("", *head), []).extend((_name(report), *line) for line in lines)
    return "\n".join(_pipes(head, lines) for head, lines in tables.items())


def _smoothed(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The entry of the smoothed classifier, if there is one."""
    return [report["smoothing"]] if "smoothing" in report else []


def _closed(entry: dict[str, Any]) -> str:
    """The certificate's name, and the share of images whose exact radius was left open, if any."""
    left = 1 - entry.get("closed", 1.0)
    return f"{entry['name']} ({left:.1%} open)" if left else entry["name"]


def _flagged(entry: dict[str, Any]) -> str:
    """The attack's name, and whether what it follows is masked, if that was asked."""
    return f"{entry['name']} (masked)" if entry.get("masked", 0.0) > MASKED else entry["name"]


def _accuracies(entry: dict[str, Any]) -> dict[str, Any]:
    """Of an attack within each radius; over several trials the mean and its 95% interval."""
    if "interval" not in entry:
        return entry["robust_acc"]
    return {r: (mean, entry["interval"][r]) for r, mean in entry["mean_acc"].items()}


def _within(accuracies: dict[str, Any]) -> str:
    """Radii and the accuracy within each, as one text."""

    def told(value):
        return f"{value[0]:.3f} ± {value[1]:.3f}" if isinstance(value, tuple) else f"{value:.3f}"

    return "  ".join(f"{float(radius):.4g}: {told(value)}" for radius, value in accuracies.items())


def _name(report: dict[str, Any]) -> str:
    given = report["config"]["net"]["weights"]
    return f"{report['name']}{given and ', ' + Path(given).stem}, {decider(report)}"


def _pipes(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in [head, ("---",) * len(head), *lines])


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
    told = "".join(map(_html, measured(report))) + told
    lipschitz = report["lipschitz"]
    bound = f"Lipschitz constant of the features: at most {lipschitz:.4g}." if lipschitz else ""
    if "separation" in report:
        bound += f" The least distance of two prototypes is {report['separation']:.3f} of the most "
        bound += "that so many can have."
    details = html.escape(json.dumps(report, indent=2))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(report["name"])}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
td, th {{ padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: left }}
td {{ font-variant-numeric: tabular-nums }}
img {{ max-width: 100%; margin: 1rem 0 }}
pre {{ background: #f6f6f6; padding: 1rem; overflow: auto }}
</style></head><body>
<h1>{html.escape(report["name"])}</h1>
<p>{html.escape(headline(report))}. Accuracies are over all images, a misclassified one is never
robust; norms are over successful attacks on correctly classified images. Masked: the boundary attack
finds less, by decisions alone, on more than a twentieth of them. Certified radii above an attack's
norm: {report["violations"]}. {bound}</p>
<table><tr>{head}</tr>{body}</table>
{told}
{images}
<details><summary>report.json</summary><pre>{details}</pre></details>
</body></html>
"""


def _html(table: list[tuple[str, ...]]) -> str:
    head, *lines = table
    rows = [(head, "th"), *((line, "td") for line in lines)]
    body = ("".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) for row, tag in rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in body)}</table>"


def main() -> None:
    """Prints both tables of the reports named on the command line."""
    if len(sys.argv) < 2:
        raise ValueError("give report.json files: python -m knn_jax.pages results/*.json")
    try:
        reports = [json.loads(Path(file).read_text()) for file in sys.argv[1:]]
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from error
    print("\n".join(filter(None, [markdown(reports), measurements(reports)])))


if __name__ == "__main__":
    cli.run(main)
