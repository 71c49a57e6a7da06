"""Reports side by side as tables in Markdown, and the files that hold them.

python -m knn_jax.report.markdown README.md docs/results.md results/*.json
python -m knn_jax.report.markdown results/README.md results/*.json results/studies/*.json
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from knn_jax.display import command
from knn_jax.report import html, pipes
from knn_jax.report.evidence import Figure, bounds, short, shown_share, told
from knn_jax.report.report import Report
from knn_jax.workdir.files import whole

SUMMARY = (
    *("", "trained", "within", "clean", "n", "reported"),
    *("reproduced", "adaptive", "certified"),
)
FIGURES = ("", "", "n", "clean", "found", "mean", "accuracy within radius")
NUMBER = re.compile(r"<!-- (\S+) ([^>]+?) (\S+) -->[^<]*<!-- / -->")


def summary(reports: list[Report]) -> str:
    """One line of each report and norm: the accuracy within one radius, its 95% interval, and the mean
    norm behind it; in the columns that are ours, `paper` tells what the paper has.

    The radius is the least of those that the paper reports, else of the recipe's, within which the
    strongest attack, else the certificate, leaves less than half of the clean accuracy; the largest
    where none does.
    """
    return pipes.table(SUMMARY, [line for report in reports for line in _summary(report)])


def _summary(report: Report) -> Iterator[tuple[str, ...]]:
    every, name = told(report), _name(report)
    figures = [figure for kind in every[:-1] for figure in kind]

    def line(name, norm, every, tested):
        of = [[figure for figure in kind if figure.norm == norm] for kind in every]
        reported, reproduced, adaptive, promised, certified = of
        [evidence] = (adaptive or certified or reproduced)[:1]
        radius = _radius(evidence, [*reported, *promised])
        clean = [f"{evidence.clean:.4f}", bounds(evidence.clean, tested)]
        clean += [f"(paper {f.clean:.4f})" for f in (reported + promised)[:1] if f.clean is not None]
        cells = [_least(kind, radius) for kind in (reported, reproduced, adaptive)]
        proven = [_least(certified, radius), *(f"(paper {_least([f], radius)})" for f in promised)]
        n = ", ".join(str(kind[0].n) for kind in (reproduced, adaptive, certified) if kind)
        about = name, report["trained"], f"{norm} {radius}".strip()
        return *about, " ".join(filter(None, clean)), n, *cells, " ".join(filter(None, proven))

    for norm in dict.fromkeys(figure.norm for figure in figures):
        if any(figure.norm == norm and figure.n for figure in figures):
            yield line(name, norm, every[:-1], report["n"])
    for figure in every.smoothed:
        own = figure.what.removeprefix("certified, ")
        yield line(f"{name}, {own}", figure.norm, ([], [], [], [], [figure]), figure.n)


def _radius(evidence: Figure, reported: list[Figure]) -> str:
    """The one of the summary."""
    radii = {short(r): float(r) for r in evidence.within}
    asked = {short(r) for figure in reported for r in figure.within}
    radii = {r: v for r, v in radii.items() if r in asked} or radii
    rising = sorted(radii, key=radii.__getitem__)
    fallen = [r for r in rising if (evidence.accuracy(r) or 0.0) < (evidence.clean or 0.0) / 2]
    return (fallen or rising[-1:] or [""])[0]


def _least(figures: list[Figure], radius: str) -> str:
    """Of several the least accuracy within the radius with its interval, the mean norm, of how many if
    not of all, and what makes it no robustness."""
    if not figures:
        return ""
    figure = min(figures, key=lambda figure: (figure.accuracy(radius) or 0.0, figure.mean or 0.0))
    accuracy = figure.accuracy(radius)
    share = "" if figure.found is None or figure.found > 0.9995 else f" of {figure.found:.1%}"
    mean = "" if figure.mean is None else f"({figure.mean:.3f}{share})"
    told = "" if accuracy is None else shown_share(accuracy, figure.n)
    return " ".join(filter(None, [told, mean, figure.flags]))


def lines(report: Report) -> list[tuple[str, ...]]:
    """One for each of what is told of a report, as one text for each of FIGURES."""

    def line(figure):
        norm = "" if figure.norm == "l2" else f", {figure.norm}"
        clean = "" if figure.clean is None else f"{figure.clean:.4f}"
        numbers = ("" if v is None else f"{v:.3f}" for v in (figure.found, figure.mean))
        n = "" if figure.n is None else str(figure.n)
        within = (
            " ".join(filter(None, [html.within({r: v}), bounds(figure.accuracy(short(r)), figure.n)]))
            for r, v in figure.within.items()
        )
        return _name(report), figure.what + norm, n, clean, *numbers, "  ".join(within)

    return [line(figure) for kind in told(report) for figure in kind]


def details(reports: list[Report]) -> str:
    """The lines of all reports in one table; then what was measured, the same of all in one table."""
    tables: dict[tuple[str, ...], list] = {
        FIGURES: [line for report in reports for line in lines(report)]
    }
    for report in reports:
        for head, *measured in html.measured(report):
            tables.setdefault(("", *head), []).extend((_name(report), *line) for line in measured)
    return "\n".join(pipes.table(head, lines) for head, lines in tables.items())


def fill(text: str, reports: dict[str, Report]) -> str:
    """The text with its table made anew, between `<!-- summary -->` or `<!-- details -->` and
    `<!-- end -->`, and each number between `<!-- RUN ATTACK WHAT -->` and `<!-- / -->`, as `number` has
    it of the report of that name.

    Raises ValueError for a text without either, and for a number that no report tells.
    """
    every = list(reports.values())
    tables = {"summary": summary, "details": details}
    asked = [name for name in tables if pipes.place(text, name)]
    if not asked and not NUMBER.search(text):
        raise ValueError("no <!-- summary --> or <!-- details --> before an <!-- end -->: add them")

    def told(found):
        try:
            value = number(reports[found[1]], found[2], found[3])
        except LookupError as error:
            raise ValueError(f"no report given tells <!-- {' '.join(found.groups())} -->") from error
        return f"<!-- {' '.join(found.groups())} -->{value}<!-- / -->"

    for name in asked:
        text = pipes.put(text, name, tables[name](every))
    return NUMBER.sub(told, text)


def number(report: Report, entry: str, what: str) -> str:
    """One number of a report as text: what was `reported`; of `all` images the clean accuracy; of an
    attack or certificate its n, its mean norm or radius, the share found, or the accuracy within a
    radius. `adaptive` is our strongest attack; `NAME/linf` that in one of several norms. Shares of few
    images have their interval.

    Raises LookupError where there is none.
    """
    if entry == "reported":
        return f"{report['reported'][what]:.3f}"
    if entry == "all":
        return shown_share(report[what], report["n"])
    name, _, norm = entry.partition("/")
    entries = [*report["attacks"], *report["certificates"]]
    named = {e["name"]: e for e in entries if norm in ("", e["norm"])}
    if name == "adaptive":
        name = "least of all" if "least of all" in named else "minimum_norm"
    found = named[name]
    proven = "certified_acc" in found
    match what:
        case "n":
            return str(found["n"])
        case "mean":
            mean = found["mean_radius" if proven else "mean_norm"]
            if mean is None:
                raise LookupError("nothing was found")
            return f"{mean:.3f}"
        case "found":
            return f"{found['success_rate']:.3f}"
        case "clean_acc":  # of the smoothed classifier
            return shown_share(found["clean_acc"], found["n"])
    within = found["certified_acc"] if proven else html.accuracies(found)
    value = {short(radius): share for radius, share in within.items()}[what]
    return shown_share(value[0] if isinstance(value, tuple) else value, found["n"])


def _name(report: Report) -> str:
    given = report["weights"]
    return f"{report['name']}{given and ', ' + given}, {report['decider']}"


def _read(text: str) -> Report:
    """A report; raises whatever it may where something is missing."""
    report: Report = json.loads(text)
    if not isinstance(report, dict):
        raise ValueError("it holds no fields")
    details([report])
    summary([report])
    return report


def main() -> None:
    """Fills the Markdown files named on the command line from the reports; prints without any."""
    files = [Path(name) for name in sys.argv[1:]]
    reports, texts = {}, {}
    for file in files:
        try:
            text = file.read_text()
            if file.suffix == ".md":
                texts[file] = text
            elif file.stem in reports:
                raise ValueError("another one has its name")
            else:
                reports[file.stem] = _read(text)
        except OSError as error:
            raise ValueError(f"{file} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, LookupError, AttributeError) as error:  # whatever it lacks
            raise ValueError(f"{file} is no report: {error}") from error
    if not reports:
        raise ValueError(
            "give report.json files: python -m knn_jax.report.markdown [FILE.md ...] results/*.json"
        )
    found = list(reports.values())
    filled = {file: fill(text, reports) for file, text in texts.items()}
    for file, text in filled.items():
        with whole(file) as scratch:
            scratch.write_text(text)
    if not filled:
        print(summary(found), details(found), sep="\n")


if __name__ == "__main__":
    command.run(main)
