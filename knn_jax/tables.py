"""Reports side by side as tables in Markdown, and the files that hold them.

python -m knn_jax.tables README.md results/*.json
"""

import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from knn_jax import cli, pages
from knn_jax.files import whole
from knn_jax.kinds import KINDS

SUMMARY = (
    *("", "trained", "within", "clean", "n", "reported"),
    *("reproduced", "adaptive", "certified"),
)
FIGURES = ("", "", "n", "clean", "found", "mean", "accuracy within radius")
FEW = 1000  # images, below which a share is told with its 95% interval


class Figure(NamedTuple):
    """What one of a report's lines tells."""

    what: str
    norm: str
    n: int | None
    clean: float | None
    found: float | None
    """The share of right images that an attack fooled; None of certificates."""
    mean: float | None
    """Of the norms found, or of the radii certified."""
    within: dict[str, Any]
    """Accuracies by radius; with its interval where there were trials."""
    flags: str = ""
    """What makes an attack's number no robustness."""

    def accuracy(self, radius: str) -> float | None:
        """Within that radius, as `_short` writes it."""
        value = {_short(r): v for r, v in self.within.items()}.get(radius)
        return value[0] if isinstance(value, tuple) else value


def interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share of n images."""
    squared = 1.959964**2
    middle = share + squared / (2 * n)
    half = math.sqrt(squared * (share * (1 - share) / n + squared / (4 * n * n)))
    scale = 1 + squared / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def _bounds(share: float | None, n: int | None) -> str:
    """That interval as text, where the images are few."""
    if share is None or not n or n >= FEW:
        return ""
    return "[{:.3f}, {:.3f}]".format(*interval(share, n))


def _share(share: float, n: int | None) -> str:
    return " ".join(filter(None, [f"{share:.3f}", _bounds(share, n)]))


class Told(NamedTuple):
    """All that is to be said of a report; each list may be empty."""

    reported: list[Figure]
    reproduced: list[Figure]
    adaptive: list[Figure]
    """The strongest attack in each norm."""
    promised: list[Figure]
    """What the paper certifies."""
    certified: list[Figure]
    """The strongest certificate."""
    smoothed: list[Figure]
    """Of the smoothed classifier, which is one of its own."""


def told(report: dict[str, Any]) -> Told:
    """What the paper reported, its attacks reproduced, the strongest, and what is certified."""
    clean = report["clean_acc"]

    def reported(what, norm, mean, prefix, figures):
        within = {k.removeprefix(prefix): v for k, v in figures.items() if k.startswith(prefix)}
        if mean in figures or within:
            yield Figure(what, norm, None, figures.get("clean_acc"), None, figures.get(mean), within)

    def found(what, entry):
        of = entry["norm"], entry["n"], clean, entry["success_rate"], entry["mean_norm"]
        return Figure(what, *of, pages.accuracies(entry), ", ".join(pages.flags(entry)))

    def certified(entry, clean):
        what = f"certified, {pages.closed(entry)}"
        return Figure(what, "l2", entry["n"], clean, None, entry["mean_radius"], entry["certified_acc"])

    def of_a_paper(entry):
        attack, _, source = entry["name"].partition(" on ")
        kind = KINDS.get(attack)  # None: the least of all
        # Paper 2 never had the retrieval inside the gradient.
        retrieval = report["config"]["classifier"].get("name") == "retrieval"
        return kind and kind.paper and not (kind.sourced and not source and retrieval)

    figures, of_attacks = report["reported"], report.get("reported_attacks", {})
    papers = [entry for entry in report["attacks"] if of_a_paper(entry)]
    ours = [entry for entry in report["attacks"] if not of_a_paper(entry)]
    strongest = {entry["norm"]: entry for entry in ours}  # the least of all comes last
    return Told(
        [
            *reported("reported", "l2", "mean_l2", "acc_l2_", figures),
            *reported("reported", "linf", "mean_linf", "acc_linf_", figures),
            *(
                figure
                for attack, own in of_attacks.items()
                for figure in reported(f"reported, {attack}", "l2", "mean_l2", "acc_l2_", figures | own)
            ),
        ],
        [found(f"reproduced, {pages.flagged(entry)}", entry) for entry in papers],
        [found(_flagged("adaptive", entry), entry) for entry in strongest.values()],
        list(reported("reported, certified", "l2", "mean_radius", "cert_", figures)),
        [certified(entry, clean) for entry in report["certificates"][-1:]],
        [certified(entry, entry["clean_acc"]) for entry in pages.smoothed(report)],
    )


def summary(reports: list[dict[str, Any]]) -> str:
    """One line of each report and norm: the accuracy within one radius, its 95% interval, and the mean
    norm behind it; in the columns that are ours, `paper` tells what the paper has.

    The radius is the least of those that the paper reports, else of the recipe's, within which the
    strongest attack, else the certificate, leaves less than half of the clean accuracy; the largest
    where none does.
    """
    return _pipes(SUMMARY, [line for report in reports for line in _summary(report)])


def _summary(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    every, name = told(report), _name(report)
    figures = [figure for kind in every[:-1] for figure in kind]

    def line(name, norm, every, tested):
        of = [[figure for figure in kind if figure.norm == norm] for kind in every]
        reported, reproduced, adaptive, promised, certified = of
        [evidence] = (adaptive or certified or reproduced)[:1]
        radius = _radius(evidence, [*reported, *promised])
        clean = [f"{evidence.clean:.4f}", _bounds(evidence.clean, tested)]
        clean += [f"(paper {f.clean:.4f})" for f in (reported + promised)[:1] if f.clean is not None]
        cells = [_least(kind, radius) for kind in (reported, reproduced, adaptive)]
        proven = [_least(certified, radius), *(f"(paper {_least([f], radius)})" for f in promised)]
        n = ", ".join(str(kind[0].n) for kind in (reproduced, adaptive, certified) if kind)
        about = name, _trained(report), f"{norm} {radius}".strip()
        return *about, " ".join(filter(None, clean)), n, *cells, " ".join(filter(None, proven))

    for norm in dict.fromkeys(figure.norm for figure in figures):
        if any(figure.norm == norm and figure.n for figure in figures):
            yield line(name, norm, every[:-1], report["n"])
    for figure in every.smoothed:
        own = figure.what.removeprefix("certified, ")
        yield line(f"{name}, {own}", figure.norm, ([], [], [], [], [figure]), figure.n)


def _trained(report: dict[str, Any]) -> str:
    """For how long, and on how many images if not on all; weights that were given."""
    config = report["config"]
    if config["net"]["weights"]:
        return "given weights"
    if config["net"]["name"] == "pixels" and config["defense"]["name"] == "basic":
        return ""
    images = config["data"].get("train_images", 0)  # there was no other number once
    return f"{config['optim']['epochs']} epochs" + (f" of {images} images" if images else "")


def _radius(evidence: Figure, reported: list[Figure]) -> str:
    """The one of the summary."""
    radii = {_short(r): float(r) for r in evidence.within}
    asked = {_short(r) for figure in reported for r in figure.within}
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
    told = "" if accuracy is None else _share(accuracy, figure.n)
    return " ".join(filter(None, [told, mean, figure.flags]))


def lines(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One for each of what is told of a report, as one text for each of FIGURES."""

    def line(figure):
        norm = "" if figure.norm == "l2" else f", {figure.norm}"
        clean = "" if figure.clean is None else f"{figure.clean:.4f}"
        numbers = ("" if v is None else f"{v:.3f}" for v in (figure.found, figure.mean))
        n = "" if figure.n is None else str(figure.n)
        within = (
            " ".join(
                filter(None, [pages.within({r: v}), _bounds(figure.accuracy(_short(r)), figure.n)])
            )
            for r, v in figure.within.items()
        )
        return _name(report), figure.what + norm, n, clean, *numbers, "  ".join(within)

    return [line(figure) for kind in told(report) for figure in kind]


def details(reports: list[dict[str, Any]]) -> str:
    """The lines of all reports in one table; then what was measured, the same of all in one table."""
    tables: dict[tuple[str, ...], list] = {
        FIGURES: [line for report in reports for line in lines(report)]
    }
    for report in reports:
        for head, *measured in pages.measured(report):
            tables.setdefault(("", *head), []).extend((_name(report), *line) for line in measured)
    return "\n".join(_pipes(head, lines) for head, lines in tables.items())


def fill(text: str, reports: dict[str, dict[str, Any]]) -> str:
    """The text with its table made anew, between `<!-- summary -->` or `<!-- details -->` and
    `<!-- end -->`, and each number between `<!-- RUN ATTACK WHAT -->` and `<!-- / -->`, as `number` has
    it of the report of that name.

    Raises ValueError for a text without a table, and for a number that no report tells.
    """
    place = re.search(r"<!-- (summary|details) -->\n(.*?)<!-- end -->", text, re.DOTALL)
    if place is None:
        raise ValueError("no <!-- summary --> or <!-- details --> before an <!-- end -->: add them")
    table = {"summary": summary, "details": details}[place[1]](list(reports.values()))

    def told(found):
        try:
            value = number(reports[found[1]], found[2], found[3])
        except LookupError as error:
            raise ValueError(f"no report given tells <!-- {' '.join(found.groups())} -->") from error
        return f"<!-- {' '.join(found.groups())} -->{value}<!-- / -->"

    text = f"{text[: place.start(2)]}\n{table}\n{text[place.end(2) :]}"
    return re.sub(r"<!-- (\S+) ([^>]+?) (\S+) -->[^<]*<!-- / -->", told, text)


def number(report: dict[str, Any], entry: str, what: str) -> str:
    """One number of a report as text: what was `reported`; of `all` images the clean accuracy; of an
    attack or certificate its n, its mean norm or radius, the share found, or the accuracy within a
    radius. `adaptive` is our strongest attack; `NAME/linf` that in one of several norms. Shares of few
    images have their interval.

    Raises LookupError where there is none.
    """
    if entry == "reported":
        return f"{report['reported'][what]:.3f}"
    if entry == "all":
        return _share(report[what], report["n"])
    name, _, norm = entry.partition("/")
    entries = [*report["attacks"], *report["certificates"], *pages.smoothed(report)]
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
            return _share(found["clean_acc"], found["n"])
    within = found["certified_acc"] if proven else pages.accuracies(found)
    value = {_short(radius): share for radius, share in within.items()}[what]
    return _share(value[0] if isinstance(value, tuple) else value, found["n"])


def _short(radius: str) -> str:
    return f"{float(radius):.4g}"


def _name(report: dict[str, Any]) -> str:
    given = report["config"]["net"]["weights"]
    return f"{report['name']}{given and ', ' + Path(given).stem}, {pages.decider(report)}"


def _flagged(what: str, entry: dict[str, Any]) -> str:
    return pages.flagged(entry | {"name": what})


def _pipes(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    rows = [head, ("---",) * len(head), *lines]
    return "".join(f"| {' | '.join(map(_plain, row))} |\n" for row in rows)


def _plain(cell: str) -> str:
    """A text that opens no other cell, line or tag in Markdown: names come from outside."""
    return re.sub(r"([\\|<])", r"\\\1", re.sub(r"[\r\n]+", " ", cell))


def _check(report: Any) -> None:
    """Raises whatever it may where something is missing."""
    if not isinstance(report, dict):
        raise ValueError("it holds no fields")
    details([report])
    summary([report])


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
                reports[file.stem] = json.loads(text)
                _check(reports[file.stem])
        except OSError as error:
            raise ValueError(f"{file} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, LookupError, AttributeError) as error:  # whatever it lacks
            raise ValueError(f"{file} is no report: {error}") from error
    if not reports:
        raise ValueError(
            "give report.json files: python -m knn_jax.tables [FILE.md ...] results/*.json"
        )
    found = list(reports.values())
    filled = {file: fill(text, reports) for file, text in texts.items()}
    for file, text in filled.items():
        with whole(file) as scratch:
            scratch.write_text(text)
    if not filled:
        print(summary(found), details(found), sep="\n")


if __name__ == "__main__":
    cli.run(main)
