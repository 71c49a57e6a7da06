"""A report as a table in the terminal and as a page."""

import base64
import html
import json
from collections.abc import Collection

from rich.table import Table
from rich.text import Text

from knn_jax.report.report import AttackEntry, CertificateEntry, Report, Within

COLUMNS = (
    *("", "norm", "n", "success", "mean", "median", "squared / pixels"),
    *("accuracy within radius", "seconds"),
)
FLAGS = {"no_gradient": "no gradient", "exhausted": "out of steps"}  # of an attack, and their words
MASKED = 0.05  # of the images at least, on which the boundary attack finds less than one by gradients


def headline(report: Report) -> str:
    """What was evaluated, in one line."""
    given, rows = report["weights"], report["bank_rows"] or ""
    weights = given and f" with {given}"
    return (
        f"{report['name']}{weights}: {report['decider']}{rows and f', {rows} rows'}; "
        f"clean accuracy {report['clean_acc']:.4f} of {report['n']}"
    )


def rows(report: Report) -> list[tuple[str, ...]]:
    """Each attack and certificate as one text for each of COLUMNS."""

    def row(name, entry, success, mean, median, accuracies):
        numbers = map(_number, (success, mean, median))
        normalised = entry.get("mean_normalised")  # as Zhao & Cho 2018 measure it
        per_pixel = "" if normalised is None else f"{normalised:.1e}"
        told = within(accuracies), f"{entry['seconds']:.1f}"
        return name, entry["norm"], str(entry["n"]), *numbers, per_pixel, *told

    attacks = (
        row(flagged(a), a, a["success_rate"], a["mean_norm"], a["median_norm"], accuracies(a))
        for a in report["attacks"]
    )
    certificates = (
        row(f"certified: {closed(c)}", c, None, c["mean_radius"], None, c["certified_acc"])
        for c in report["certificates"]
    )
    return [*attacks, *certificates]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def measured(report: Report) -> list[list[tuple[str, ...]]]:
    """Tables of what was measured of features and votes, their heads first; those that there are."""
    tables = []
    if "analysis" in report:
        found = report["analysis"]
        numbers = found.get("lid"), found.get("jacobian_norm")
        head = ("layer", "n", "local dimension", "Jacobian norm")
        tables.append([head, (found["layer"], str(found["n"]), *map(_number, numbers))])
    lines = [
        (
            f"{a['name']}, {a['norm']}",
            *(_number(a["information"][which]) for which in ("clean", "adversarial")),
            *(_number(a["agreed"][which]) for which in ("fell", "resisted")),
        )
        for a in report.get("attacks", ())
        if "information" in a and "agreed" in a
    ]
    if lines:
        head = ("attack", "information, clean", "adversarial", "agreed: fell", "resisted")
        tables.append([head, *lines])
    if "credibility" in report:
        lines = [
            (kind["images"], str(kind["n"]), f"{kind['credibility']:.3f}", f"{kind['confidence']:.3f}")
            for kind in report["credibility"]
        ]
        tables.append([("images", "n", "mean credibility", "mean confidence"), *lines])
    return tables


def table(report: Report) -> Table:
    """For the terminal."""
    words = COLUMNS[:2]
    return terminal([COLUMNS, *rows(report)], words, title=Text(headline(report)))


def terminal(
    table: list[tuple[str, ...]], words: Collection[str] | None = None, title: Text | None = None
) -> Table:
    """A table, its head first, for the terminal; columns but those of `words`, if given, are numbers.

    Its texts are taken to the letter: names from outside may look like rich's markup.
    """
    head, *lines = table
    shown = Table(title=title)
    for column in head:
        number = words is not None and column not in words
        shown.add_column(Text(column), justify="right" if number else "left")
    for line in lines:
        shown.add_row(*map(Text, line))
    return shown


def closed(entry: CertificateEntry) -> str:
    """The certificate's name, and the share of images whose exact radius was left open, if any."""
    left = 1 - entry.get("closed", 1.0)
    return f"{entry['name']} ({left:.1%} open)" if left else entry["name"]


def flagged(entry: AttackEntry) -> str:
    """The attack's name, what makes its number no robustness, and whether what it follows is masked, if
    that was asked."""
    told = [*flags(entry), *(["masked"] if is_masked(entry) else [])]
    return f"{entry['name']} ({', '.join(told)})" if told else entry["name"]


def is_masked(entry: AttackEntry) -> bool:
    """Whether decisions alone find less than the gradients that the attack followed."""
    return entry.get("masked", 0.0) > MASKED


def flags(entry: AttackEntry) -> list[str]:
    """On how many images an attack had no gradient to follow, or ran out of its steps, if on any."""
    counts = {what: entry.get(flag, 0) for flag, what in FLAGS.items()}
    return [f"{what} on {count} of {entry['n']}" for what, count in counts.items() if count]


def accuracies(entry: AttackEntry) -> Within:
    """Of an attack within each radius; over several trials the mean and its 95% interval."""
    if "interval" in entry and "mean_acc" in entry:
        return {r: (mean, entry["interval"][r]) for r, mean in entry["mean_acc"].items()}
    return entry["robust_acc"]


def within(accuracies: Within) -> str:
    """Radii and the accuracy within each, as one text."""

    def told(value):
        return f"{value[0]:.3f} ± {value[1]:.3f}" if isinstance(value, tuple) else f"{value:.3f}"

    return "  ".join(f"{float(radius):.4g}: {told(value)}" for radius, value in accuracies.items())


def cited(report: Report) -> str:
    """The paper whose system the recipe reproduces, and what it reports of it; empty without one."""
    paper = report.get("paper")
    if not paper:
        return ""
    year = paper["year"] or "undated"
    figures = ", ".join(f"{name} {value:g}" for name, value in report["reported"].items())
    reports = f"reports {figures}" if figures else "reports nothing of this system"
    return f"{paper['authors']} ({year}), {paper['title']}, {paper['link']}: {reports}"


def page(report: Report, pictures: dict[str, bytes]) -> str:
    """One HTML file with everything inside."""
    head = "".join(f"<th>{column}</th>" for column in COLUMNS)
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows(report))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    encoded = {name: base64.b64encode(picture).decode() for name, picture in pictures.items()}
    images = "".join(
        f'<img alt="{html.escape(name)}" src="data:image/png;base64,{picture}">'
        for name, picture in encoded.items()
    )
    told = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value:g}</td></tr>"
        for name, value in report["reported"].items()
    )
    told = f"<table>{told}</table>" if told else ""
    told = (
        f"<h2>The paper</h2><p>{html.escape(cited(report))}</p>{told}" if report.get("paper") else told
    )
    told = "".join(map(_html, measured(report))) + told
    lipschitz = report["lipschitz"]
    bound = f"Lipschitz constant of the features: at most {lipschitz:.4g}." if lipschitz else ""
    if "separation" in report:
        bound += f" The least distance of two prototypes is {report['separation']:.3f} of the most "
        bound += "that so many can have."
    masked = ""
    if any(map(is_masked, report["attacks"])):
        masked = "Masked: the boundary attack finds less, by decisions alone, on more than a twentieth "
        masked += "of them."
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
robust; norms are over successful attacks on correctly classified images. {masked} Where an
attack had no gradient to follow, or ran out of its steps, that it found nothing is no robustness.
Certified radii above the norm of an attack: {report["violations"]}. {bound}</p>
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
