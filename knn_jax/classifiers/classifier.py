"""Protocols for what can be attacked and certified.

What attacks ask, from a classifier that only decides to one whose rows vote:

    Decides                  right
    Surrogate                references soft_votes                 what a gradient can follow
    Scores                   both of these, and votes, predict, rivals
    Votes                    Scores made by the nearest rows of a bank

and what certificates ask:

    Predicts                 classes predict                       randomized smoothing
    Certifiable              rows that vote in one layer by the Euclidean distance

`classifiers.KNN` and `Prototypes` are `Votes` and, in one layer, `Certifiable`; `Network` and
`Retrieval` are `Scores`; all are `Predicts`. A classifier of one's own need not inherit from anything;
from `classifiers.Decision` it gets `predict`, `right` and `top`. It must be a pytree, for it is an
argument of compiled programs.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Num, PyTree

from knn_jax import neighbors
from knn_jax.classifiers.inputs import Images, Labels

Temperature = float | Float[Array, ""]


@runtime_checkable
class Decides(Protocol):
    """A classifier that is only asked whether it is right."""

    def right(self, x: Images, y: Labels) -> Bool[Array, " batch"]:
        """Whether it decides for class y."""
        ...


@runtime_checkable
class Surrogate(Protocol):
    """Scores that a gradient can follow, over references that are retrieved without one."""

    @property
    def classes(self) -> int:
        """Number of classes."""
        ...

    @property
    def k(self) -> int:
        """Rows that decide; 1 where none do."""
        ...

    def references(self, x: Images, count: int | None = None) -> PyTree:
        """What scores near x are made of: of rows, the `count` (k) nearest of each class."""
        ...

    def soft_votes(
        self, x: Images, references: PyTree, temperature: Temperature
    ) -> Float[Array, "batch class"]:
        """Scores of each class, differentiable in x, the harder the lower the temperature."""
        ...


@runtime_checkable
class Scores(Decides, Surrogate, Protocol):
    """A classifier that decides by its largest score."""

    @property
    def top(self) -> int:
        """How many classes it names: it is right if y is among these."""
        ...

    def votes(self, x: Images) -> Num[Array, "batch class"]:
        """The scores it decides by: votes of rows, or logits."""
        ...

    def predict(self, x: Images) -> Labels:
        """The class it decides for, -1 for none."""
        ...

    def rivals(self, x: Images, y: Labels, count: int) -> Float[Array, "batch count h w c"]:
        """Images of classes other than y, near x, that an attack can start from."""
        ...


@runtime_checkable
class Votes(Scores, Protocol):
    """A classifier whose scores are votes of the nearest rows, on one layer or several."""

    @property
    def features(self) -> PyTree:
        """Images -> a tuple of (batch, dim), one for each layer."""
        ...

    @property
    def banks(self) -> tuple[PyTree, ...]:
        """Features of the rows, (row, dim) for each layer."""
        ...

    @property
    def images(self) -> PyTree:
        """Images of the rows, (row, height, width, channel)."""
        ...

    @property
    def labels(self) -> PyTree:
        """Classes of the rows, (row,)."""
        ...

    @property
    def metric(self) -> neighbors.Metric:
        """The metric by which rows are near; for the cosine the features have length 1."""
        ...

    def ranks(
        self, x: Images, references: PyTree, y: Labels, temperature: Temperature
    ) -> Float[Array, "batch class"]:
        """By how little each class misses taking the vote from class y."""
        ...

    def squared_distances(
        self, x: Images, references: PyTree
    ) -> tuple[Float[Array, "batch class count"], ...]:
        """From x to its references in each layer."""
        ...

    def nearest(self, query: PyTree, bank: PyTree, k: int, **among: PyTree) -> neighbors.Neighbors:
        """The k rows of a bank nearest to features."""
        ...

    def guides(self, x: Images, y: Labels, count: int) -> PyTree:
        """The nearest rows of class y and of the nearest other class."""
        ...


@runtime_checkable
class Predicts(Protocol):
    """A classifier that names one class."""

    @property
    def classes(self) -> int:
        """Number of classes."""
        ...

    def predict(self, x: Images) -> Labels:
        """The class it decides for, -1 for none."""
        ...


@runtime_checkable
class Certifiable(Protocol):
    """A classifier whose nearest rows vote: certificates take it if that is in one layer and by the
    Euclidean distance."""

    @property
    def banks(self) -> tuple[PyTree, ...]:
        """Features of the rows, (row, dim) for each layer."""
        ...

    @property
    def labels(self) -> PyTree:
        """Classes of the rows, (row,)."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes."""
        ...

    @property
    def k(self) -> int:
        """Nearest rows that vote."""
        ...

    @property
    def metric(self) -> neighbors.Metric:
        """The distance by which rows are near."""
        ...

    @property
    def on_inputs(self) -> bool:
        """Whether the features are the pixels themselves."""
        ...

    def first(self, x: Images) -> Float[Array, "batch dim"]:
        """The features in the first layer."""
        ...


def require(model: object, needs: type, who: str) -> None:
    """Raises ValueError, naming what is missing, for a model that is not what `who` needs."""
    if isinstance(model, needs):
        return
    members = sorted(name for name in _members(needs) if not hasattr(model, name))
    kind = " (give classifiers.knn)" if needs in (Votes, Certifiable) else ""
    raise ValueError(
        f"{type(model).__name__} lacks {', '.join(members)}, which {who} needs of a classifier{kind}: "
        f"see classifiers.{needs.__name__}"
    )


def _members(protocol: type) -> set[str]:
    """Names that a protocol and those it extends declare."""
    known = {name for kind in protocol.__mro__ if kind is not Protocol for name in vars(kind)}
    return {name for name in known if not name.startswith("_")}
