"""A recipe: the values that a run is made of, the paper it reproduces, and its named variants."""

import contextlib
import dataclasses
import difflib
import inspect
import keyword
import math
import runpy
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from knn_jax import balls, values
from knn_jax.attacks import Attack
from knn_jax.certificates import Certificate
from knn_jax.data import Data
from knn_jax.defenses import Defense
from knn_jax.measures import Measure
from knn_jax.recipe import fit
from knn_jax.training import Optim

Figures = Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Paper:
    """A publication, and what it reports of the system that a recipe reproduces.

    `figures` are by the classifier's layers (joined by +; the layer retrieved by; of a network
    "output", of prototypes "prototypes"): clean_acc; of the paper's attack mean_l2, acc_l2_1 (accuracy
    within 1, ...) and acc_linf_0.1; of its certificate mean_radius and cert_1. Those of one attack
    among several are under "LAYERS, ATTACK".
    """

    title: str
    authors: str
    year: int | None
    link: str
    figures: Figures = dataclasses.field(default_factory=dict)

    def reports(self, figures: Figures) -> "Paper":
        """The same paper with these figures."""
        return dataclasses.replace(self, figures=figures)

    def told(self) -> dict[str, str | int | None]:
        """As report.json has it, without the figures."""
        return {"title": self.title, "authors": self.authors, "year": self.year, "link": self.link}


@values.value
class Evaluate:
    """What is attacked and certified, whatever the method."""

    images: int = 200
    """Test images that are attacked, the first so many in the order of `image_seed`."""
    image_seed: int | None = None
    """Seed by which the test images are put in a random order before any are taken; None: the data's
    own order, in which the first may be harder than the rest, as MNIST's are."""
    baseline_images: int = 0
    """Test images for all attacks but MinimumNorm; 0: as many as it has."""
    certified_images: int = 0
    """Test images that are certified; 0: as many as are attacked."""
    norms: tuple[Literal["l2", "linf"], ...] = ("l2",)
    """Norms in which attacks are run, each in those that it has."""
    radii: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0)
    """L2 radii at which robust and certified accuracy are reported."""
    radii_linf: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3)
    """Linf radii at which robust accuracy is reported."""
    sources: tuple[Literal["model", "network", "held", "substitute"], ...] = ("model",)
    """Whose gradients attacks follow: the classifier's; those of the network without neighbours; with
    its neighbours held; of a substitute trained by cross-entropy."""
    trials: int = 1
    """Repetitions of attacks in a ball; several give means with 95% intervals."""
    chunk: int = 100
    """Images attacked between two saves."""
    certified_chunk: int = 1000
    """Images certified between two saves."""
    seed: int = 0
    """Seed of what attacks and certificates draw."""

    def __post_init__(self):
        values.at_least(1, images=self.images, trials=self.trials)
        values.at_least(1, chunk=self.chunk, certified_chunk=self.certified_chunk)
        values.at_least(0, baseline_images=self.baseline_images, certified_images=self.certified_images)
        values.at_least(0, radii=self.radii, radii_linf=self.radii_linf)
        values.between(0, 2**32 - 1, image_seed=self.image_seed)

    def order(self, count: int) -> np.ndarray:
        """The places in a test set of `count` images, in the order in which they are taken."""
        if self.image_seed is None:
            return np.arange(count)
        return np.random.default_rng(self.image_seed).permutation(count)

    def within(self, norm: balls.Norm) -> tuple[float, ...]:
        """The radii of that norm."""
        return self.radii if norm == "l2" else self.radii_linf

    def count(self, attack: Attack) -> int:
        """On how many images an attack is run."""
        return self.images if attack.primary else self.baseline_images or self.images

    @property
    def to_certify(self) -> int:
        """How many images are certified."""
        return self.certified_images or self.images


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A system under test, and how it is tested. Its values check themselves when they are made, and
    `check` checks what they are together, before any long work."""

    name: str
    data: Data
    defense: Defense
    classifier: fit.Classifier
    attacks: dict[str, Attack] = dataclasses.field(default_factory=dict)
    certificates: dict[str, Certificate] = dataclasses.field(default_factory=dict)
    measures: dict[str, Measure] = dataclasses.field(default_factory=dict)
    optim: Optim = dataclasses.field(default_factory=Optim)
    evaluate: Evaluate = dataclasses.field(default_factory=Evaluate)
    paper: Paper | None = None

    def __post_init__(self):
        for part, base in (("data", Data), ("defense", Defense), ("classifier", fit.Classifier)):
            if not isinstance(getattr(self, part), base):
                raise ValueError(f"{part}={getattr(self, part)!r} is no {base.__name__}")
        for kind, base in (("attack", Attack), ("certificate", Certificate), ("measure", Measure)):
            every = getattr(self, f"{kind}s")
            if not isinstance(every, Mapping):
                raise ValueError(f"{kind}s={every!r}: give each a name, {{name: value}}")
            for name, made in every.items():
                if not name.isidentifier() or keyword.iskeyword(name):
                    raise ValueError(f"{kind}s[{name!r}]: give a name of letters, digits and _")
                if not isinstance(made, base):
                    raise ValueError(f"{kind}s[{name!r}] is no {kind}: {made!r}")

    def but(self, **changes: object) -> "Recipe":
        """The recipe with other values, as its variants are made."""
        return dataclasses.replace(self, **changes)

    def unreported(self) -> "Recipe":
        """The recipe without its paper's figures, as those of another system are made."""
        return self.but(paper=self.paper and self.paper.reports({}))

    def told(self) -> dict[str, object]:
        """As config.json and report.json have it, without the paper."""
        every = values.told(self).items()
        return {name: part for name, part in every if name not in (values.CLASS, "paper")}

    def defaults(self) -> dict[str, dict[str, object]]:
        """The knobs of what trains the network, each as it is unless it is given."""
        parts = {"data": self.data, "defense": self.defense, "optim": self.optim}
        return {name: values.defaults(part) for name, part in parts.items()}


def read(place: str) -> tuple[Recipe, str]:
    """The recipe of `FILE.py` or its variant, `FILE.py:VARIANT`, and the file's text about it.

    Raises ValueError for a file that is none or that raises an error itself, and for a variant that
    there is not.
    """
    file, _, variant = place.partition(":")
    if not Path(file).is_file():
        raise ValueError(f"there is no recipe {file}")
    with _executed(file):
        module = runpy.run_path(file)
    known = variants(module)
    if "recipe" not in known:
        raise ValueError(f"{file} is no recipe: it needs a function recipe() annotated -> Recipe")
    name = variant or "recipe"
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        others = ", ".join(sorted(set(known) - {"recipe"})) or "none"
        raise ValueError(f"{file} has no variant {name!r}{hint}: it has {others}")
    with _executed(file):
        made = known[name]()
    if not isinstance(made, Recipe):
        raise ValueError(f"{file}: {name}() gives no Recipe")
    return made, inspect.cleandoc(module.get("__doc__") or "")


@contextlib.contextmanager
def _executed(file: str) -> Iterator[None]:
    """Whatever the file raises becomes a ValueError of one line that names the place in the file."""
    try:
        yield
    except Exception as error:
        steps = traceback.extract_tb(error.__traceback__)
        line = next((step.lineno for step in reversed(steps) if step.filename == file), None)
        why = f"{error}"
        if isinstance(error, SyntaxError) and line is None:  # the file's own
            line, why = error.lineno, error.msg
        place = f"{file}, line {line}" if line else file
        raise ValueError(f"{place}: {type(error).__name__}: {' '.join(why.split())}") from error


def variants(module: Mapping[str, object]) -> dict[str, Callable[[], Recipe]]:
    """The functions of a recipe's file that give a recipe, by name."""
    made = {name: part for name, part in module.items() if inspect.isfunction(part)}
    own = {name: part for name, part in made.items() if part.__code__.co_filename == module["__file__"]}
    return {
        name: part
        for name, part in own.items()
        if not name.startswith("_") and part.__annotations__.get("return") is Recipe
    }


def same_system(one: Recipe, other: Recipe) -> bool:
    """Whether a paper's figures of one recipe are of the other too: trained alike, but for the place of
    the images and the seed, or with given weights, and deciding alike on any of its layers."""

    given = one.defense.weights or other.defense.weights

    def system(recipe: Recipe) -> list[object]:
        data = values.told(recipe.data)
        kept = data["train_images"], data.get("size", 0)  # a set that has no size is as it is
        defense, optim, decides = map(values.told, (recipe.defense, recipe.optim, recipe.classifier))
        trained = None if given else {**optim, "seed": None}
        return [kept, {**defense, "weights": ""}, trained, {**decides, "layers": None}]

    return one.name == other.name and system(one) == system(other)


def finite(number: float) -> float | None:
    """As JSON has it: infinity is no number there."""
    return number if math.isfinite(number) else None
