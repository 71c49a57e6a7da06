"""What report.json holds: attack.py and certify.py write it, and tables, pages and pictures read it.

A share or mean is None where there is no image to take it of.
"""

from collections.abc import Mapping
from typing import Literal, NotRequired, TypedDict

from knn_jax import balls

Accuracies = dict[str, float]  # by radius, as text
Within = Mapping[str, float | tuple[float, float]]  # the same, or each with how far its interval goes


class Times(TypedDict):
    """How long all images took, and the program to compile."""

    seconds: float
    compile_seconds: float


class Entry(Times):
    """What an attack and a certificate both tell: a name (of an attack also whose gradients it follows,
    if not the classifier's), the norm, and on how many images, the first in the recipe's order."""

    name: str
    norm: balls.Norm
    n: int


class Besides(TypedDict, total=False):
    """What only some attacks tell.

    In L2 `mean_normalised`, the mean of squared norms over the number of pixels. On how many of the
    images that are right the attack had `no_gradient`, or had `exhausted` its steps. `masked`, the
    share of them on which the boundary attack finds less. Of several `trials` in balls the accuracy
    `mean_acc` and how far its 95% `interval` goes. Of ASK the `temperature` and `weights` of each
    layer, the `information` that images which fell give of their class, and the share whose neighbours
    `agreed`.
    """

    mean_normalised: float | None
    no_gradient: int
    exhausted: int
    masked: float
    trials: int
    mean_acc: Accuracies
    interval: Accuracies
    temperature: list[float]
    weights: list[float]
    information: dict[Literal["clean", "adversarial"], float | None]
    agreed: dict[Literal["fell", "resisted"], float | None]


class Outcome(Entry, Besides):
    """Of an attack in one norm: `robust_acc` is of all its images, success and norms are of those that
    are right without it."""

    success_rate: float
    mean_norm: float | None
    median_norm: float | None
    robust_acc: Accuracies
    gradients: int


class AttackEntry(Outcome):
    """The same, and whether a paper's evaluation has the attack."""

    baseline: bool


class CertificateEntry(Entry):
    """One certificate. `certified_acc` and `mean_radius_all` are of all its images, `mean_radius` is of
    those that are right.

    What else is here is from `Certificate.summary`: the share of images whose exact radius is `closed`,
    and of a smoothed classifier its own `clean_acc`, and the share from which it `abstains`.
    """

    mean_radius: float | None
    certified_acc: Accuracies
    mean_radius_all: NotRequired[float]
    closed: NotRequired[float]
    clean_acc: NotRequired[float]
    abstains: NotRequired[float]


class Analysis(TypedDict):
    """Means over n images of the local dimension `lid` of a layer and of the norm of its Jacobian,
    where each was measured."""

    layer: str
    n: int
    lid: NotRequired[float | None]
    jacobian_norm: NotRequired[float]
    seconds: float


class Credible(TypedDict):
    """The mean credibility and confidence of n images of one kind."""

    images: str
    n: int
    credibility: float
    confidence: float


class Report(TypedDict):
    """The whole file: what was tested, how it fared, what its paper reports, and what it ran on.

    `n` and `clean_acc` are of the whole test set. `paper` is `recipe.Paper.told`, and `reported` has
    its figures, of one attack among several in `reported_attacks`; `config` is `Recipe.told`.
    `violations` counts certified radii above the norm of an attack. A defense adds `separation`,
    measures add `analysis` and `credibility`. Published results name the `recipe`'s file, and older
    ones lack `command`, `paper` and `test_digest`.
    """

    name: str
    recipe: NotRequired[str]
    command: NotRequired[str]
    paper: NotRequired[Mapping[str, str | int | None] | None]
    dataset: str
    decider: str
    trained: str
    weights: str
    layer: str
    k: int
    bank_rows: int
    fingerprint: str
    test_digest: NotRequired[str]
    n: int
    clean_acc: float
    lipschitz: float | None
    attacks: list[AttackEntry]
    certificates: list[CertificateEntry]
    violations: int
    reported: dict[str, float]
    reported_attacks: dict[str, dict[str, float]]
    config: Mapping[str, object]
    hardware: Mapping[str, str | int | None]
    versions: Mapping[str, str]
    separation: NotRequired[float]
    analysis: NotRequired[Analysis]
    credibility: NotRequired[list[Credible]]
