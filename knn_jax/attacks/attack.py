"""What an attack is: a value that is checked, compiled and run, in a ball or for the smallest norm.

A new attack is one file: a class decorated by `values.value`, its knobs as fields, and `search`, which
is compiled once for all their numbers. Checks of the input, the default source of gradients and
compilation stand here. CONTRIBUTING.md has a skeleton.
"""

import abc
import functools
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from knn_jax import balls, neighbors, values
from knn_jax.attacks import checks
from knn_jax.attacks.judgement import Found
from knn_jax.classifiers import GivenImages, GivenLabels, Images, Labels, Scores, Votes, require
from knn_jax.values import given
from knn_jax.values.given import Real

Number = float | Float[Array, ""]


@runtime_checkable
class Plan(Protocol):
    """What is known of a classifier and the system around it before its network is trained."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers in which rows vote; none where no rows do."""
        ...

    @property
    def of_images(self) -> bool:
        """Whether the rows that vote are those of images, not prototypes."""
        ...

    @property
    def rows(self) -> int:
        """Rows of the bank."""
        ...

    @property
    def tests(self) -> int:
        """Test images."""
        ...

    @property
    def one_image(self) -> bool:
        """Whether the network's loss is of one image and its class."""
        ...

    def check_layers(self, layers: tuple[str, ...]) -> None:
        """Raises ValueError for layers on which rows cannot vote."""
        ...


@runtime_checkable
class Victim(Protocol):
    """What an attack may be prepared with before it is run: the classifier and the system around it."""

    @property
    def model(self) -> PyTree:
        """The classifier that is attacked."""
        ...

    def on_layers(self, layers: tuple[str, ...]) -> Votes:
        """k-NN on other layers of the same network."""
        ...

    def training_loss(self, source: PyTree) -> Callable[..., Array]:
        """The loss that the network was trained with, `(images, y) -> (batch,)`, or the cross-entropy
        of a `source`."""
        ...

    def first_images(self, count: int) -> tuple[Images, Labels]:
        """The first test images and their labels."""
        ...


class Attack(abc.ABC):
    """What attacks of both kinds have; see `MinimizationAttack` and `BallAttack`."""

    norms: ClassVar[tuple[balls.Norm, ...]] = ("l2", "linf")
    """In which it is run, its default first."""
    needs: ClassVar[type] = Scores
    """What it asks of the classifier attacked."""
    follows: ClassVar[type | None] = None
    """What it asks of a source whose gradients it follows; None: it takes the classifier alone."""
    whole: ClassVar[bool] = False
    """Whether it goes over the bank as one array."""
    baseline: ClassVar[bool] = True
    """Whether a paper's evaluation consists of it; the others are our strongest."""
    primary: ClassVar[bool] = False
    """Whether it is run on all of a recipe's images, where the others may be run on fewer."""
    draws: ClassVar[bool] = True
    """Whether another key may give another result."""
    adaptive: ClassVar[bool] = False
    """Whether its counts are means over the images, which those that pad a batch would change."""
    up_the_loss: ClassVar[bool] = False
    """Whether it goes up the loss that the network was trained with, of one image and its class."""
    cites: ClassVar[str]
    """Its source: authors, year, arXiv number or title."""

    def check_plan(self, plan: Plan) -> None:
        """Raises ValueError, before any long work, for a system that it cannot attack."""
        if Votes in (self.needs, self.follows) and not plan.layers:
            raise ValueError(
                f"{type(self).__name__} needs rows that vote: use fit.KNN(...) or fit.Prototypes()"
            )

    def prepare(
        self, key: Array, victim: Victim, source: PyTree, norm: balls.Norm, radii: Sequence[float]
    ) -> tuple["Attack", PyTree]:
        """The attack and the source of its gradients, as they are to be run on many images."""
        del key, victim, norm, radii
        return self, source

    def more(
        self, model: PyTree, source: PyTree, x: Images, y: Labels, image: Images
    ) -> dict[str, Float[Array, "batch ..."]]:
        """Further arrays of each image that a report tells, by name."""
        del model, source, x, y, image
        return {}

    def source(self, model: PyTree, source: PyTree) -> PyTree:
        """Whose gradients are followed: the model's unless a source is given; ValueError for one that
        cannot be."""
        name = type(self).__name__
        if source is not None and self.follows is None:
            raise ValueError(f"{name} follows the gradients of the classifier alone: give no source")
        source = model if source is None else source
        if self.follows is not None:
            require(source, self.follows, name)
        return source

    def _admitted(self, model: PyTree, source: PyTree, x: PyTree, y: PyTree, norm: object) -> tuple:
        """The source, the images and labels, and the norm; ValueError for what it cannot attack."""
        name = type(self).__name__
        x, y = checks.check(model, x, y)
        norm = self.norms[0] if norm is None else norm
        values.one_of(self.norms, norm=norm)
        require(model, self.needs, name)
        if self.whole:
            checks.one_device(model, name)
        return self.source(model, source), x, y, norm


class MinimizationAttack(Attack):
    """An attack that looks for the smallest perturbation."""

    @abc.abstractmethod
    def search(
        self, key: Array, model: PyTree, source: PyTree, x: Images, y: Labels, norm: balls.Norm
    ) -> Found:
        """What the attack does, inside a `jit`, of input that has been checked."""

    def __call__(
        self,
        key: Array,
        model: PyTree,
        x: GivenImages,
        y: GivenLabels,
        *,
        norm: balls.Norm | None = None,
        source: PyTree = None,
    ) -> Found:
        """Attacks the images x of classes y.

        Raises ValueError for images outside [0, 1], labels out of range, and a classifier or a source
        that is not what the attack needs.
        """
        source, x, y, norm = self._admitted(model, source, x, y, norm)
        others = values.arrays(self), key, model, source
        return _run(norm, others, x, y)


class BallAttack(Attack):
    """An attack inside a ball: `eps` belongs to the problem, not to the attack's knobs."""

    norms = ("linf", "l2")
    draws: ClassVar[bool] = True
    """Whether its key matters; where it does not, one trial is as good as many."""

    @abc.abstractmethod
    def search(
        self,
        key: Array,
        model: PyTree,
        source: PyTree,
        x: Images,
        y: Labels,
        norm: balls.Norm,
        eps: Float[Array, ""],
    ) -> Found:
        """What the attack does, inside a `jit`, of input that has been checked."""

    def __call__(
        self,
        key: Array,
        model: PyTree,
        x: GivenImages,
        y: GivenLabels,
        *,
        eps: Real,
        norm: balls.Norm | None = None,
        source: PyTree = None,
    ) -> Found:
        """Attacks the images x of classes y in the ball of radius eps.

        Raises ValueError for images outside [0, 1], labels out of range, an `eps` that is negative or
        in Linf above 1, and a classifier or a source that is not what the attack needs. A norm that
        rounding took above eps is given as eps.
        """
        source, x, y, norm = self._admitted(model, source, x, y, norm)
        eps = given.real("eps", eps)
        checks.in_box(eps=eps) if norm == "linf" else values.at_least(0, eps=eps)
        others = values.arrays(self), key, model, source, jnp.float32(eps)
        return _run(norm, others, x, y)


def _run(norm, others, x, y):
    attack = others[0]
    if attack.adaptive:
        return _searched(norm, others, x, y)
    return neighbors.padded(_searched, norm, others, x, y)


@functools.partial(jax.jit, static_argnums=0)
def _searched(norm, others, x, y):
    attack, key, model, source, *ball = others
    found = attack.search(key, model, source, x, y, norm, *ball)
    if not ball:
        return found
    (eps,) = ball
    # Rounding takes an image at the rim of the ball to either side of it.
    return found._replace(norm=jnp.where(found.success, jnp.minimum(found.norm, eps), found.norm))
