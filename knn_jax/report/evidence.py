"""What a report has to say of robustness: what is reported, found and certified, in this order."""

import math
from typing import NamedTuple

from knn_jax.report import html
from knn_jax.report.report import AttackEntry, CertificateEntry, Report, Within

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
    within: Within
    """Accuracies by radius; with its interval where there were trials."""
    flags: str = ""
    """What makes an attack's number no robustness."""

    def accuracy(self, radius: str) -> float | None:
        """Within that radius, as `short` writes it."""
        value = {short(r): v for r, v in self.within.items()}.get(radius)
        return value[0] if isinstance(value, tuple) else value


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


def told(report: Report) -> Told:
    """What the paper reported, its attacks reproduced, the strongest, and what is certified."""
    clean = report["clean_acc"]

    def reported(what, norm, mean, prefix, figures):
        within = {k.removeprefix(prefix): v for k, v in figures.items() if k.startswith(prefix)}
        if mean in figures or within:
            yield Figure(what, norm, None, figures.get("clean_acc"), None, figures.get(mean), within)

    def found(what, entry):
        of = entry["norm"], entry["n"], clean, entry["success_rate"], entry["mean_norm"]
        return Figure(what, *of, html.accuracies(entry), ", ".join(html.flags(entry)))

    def certified(entry, clean):
        what = f"certified, {html.closed(entry)}"
        norm = entry["norm"]
        return Figure(what, norm, entry["n"], clean, None, entry["mean_radius"], entry["certified_acc"])

    figures, of_attacks = report["reported"], report.get("reported_attacks", {})
    papers = [entry for entry in report["attacks"] if entry["baseline"]]
    ours = [entry for entry in report["attacks"] if not entry["baseline"]]
    covered = [entry for entry in report["certificates"] if "clean_acc" not in entry]
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
        [found(f"reproduced, {html.flagged(entry)}", entry) for entry in papers],
        [found(_flagged("adaptive", entry), entry) for entry in strongest.values()],
        list(reported("reported, certified", "l2", "mean_radius", "cert_", figures)),
        [
            certified(entry, clean)
            for norm in dict.fromkeys(entry["norm"] for entry in covered)
            for entry in _widest([entry for entry in covered if entry["norm"] == norm])
        ],
        [
            certified(entry, entry["clean_acc"])
            for entry in report["certificates"]
            if "clean_acc" in entry
        ],
    )


def _widest(certificates: list[CertificateEntry]) -> list[CertificateEntry]:
    """The certificate with the largest mean radius, the last of equal ones; none of none."""
    return sorted(certificates, key=lambda entry: entry["mean_radius"] or 0.0)[-1:]


def _flagged(what: str, entry: AttackEntry) -> str:
    return html.flagged({**entry, "name": what})


def interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share of n images."""
    squared = 1.959964**2
    middle = share + squared / (2 * n)
    half = math.sqrt(squared * (share * (1 - share) / n + squared / (4 * n * n)))
    scale = 1 + squared / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def bounds(share: float | None, n: int | None) -> str:
    """That interval as text, where the images are few."""
    if share is None or not n or n >= FEW:
        return ""
    return "[{:.3f}, {:.3f}]".format(*interval(share, n))


def shown_share(share: float, n: int | None) -> str:
    return " ".join(filter(None, [f"{share:.3f}", bounds(share, n)]))


def short(radius: str) -> str:
    return f"{float(radius):.4g}"
