"""What a certificate is, and the checks and the compilation that it does not do itself.

A new certificate is one file: a class decorated by `values.value`, its knobs as fields, and `bound`,
which is compiled once for all their numbers.
"""

import abc
import functools
from typing import ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from knn_jax import balls, classifiers, neighbors, values
from knn_jax.classifiers import Certifiable, GivenImages, GivenLabels, Images, Labels, require
from knn_jax.values import given
from knn_jax.values.given import Real

FLOAT = np.finfo(np.float32)
Arrays = dict[str, np.ndarray]


@runtime_checkable
class Plan(Protocol):
    """What is known of a classifier before its network is trained."""

    @property
    def k(self) -> int:
        """Nearest rows that vote."""
        ...

    @property
    def top(self) -> int:
        """How many classes it names."""
        ...

    @property
    def on_inputs(self) -> bool:
        """Whether its features are the pixels themselves."""
        ...

    @property
    def uncertified(self) -> str:
        """Why no certificate of features covers it; empty where they do."""
        ...


class Certificate(abc.ABC):
    """A radius for each image within which no perturbation changes the decision."""

    norm: ClassVar[balls.Norm] = "l2"
    """In which the radii are."""
    needs: ClassVar[type] = Certifiable
    """What it asks of the classifier, a Protocol."""
    of_features: ClassVar[bool] = True
    """Whether it bounds a change of the features, so that their Lipschitz constant must be known."""
    of_pixels: ClassVar[bool] = False
    """Whether these must be the pixels themselves, whose constant is 1."""
    cites: ClassVar[str]
    """Its source: authors, year, arXiv number or title."""

    @abc.abstractmethod
    def bound(
        self, key: Array, model: PyTree, x: Images, y: Labels, lipschitz: Float[Array, ""]
    ) -> dict[str, Array]:
        """Arrays with one entry for each image, inside a `jit`, of input that has been checked.

        Among them is the `radius` for class y, 0 where there is none, or else what `finish` makes it
        of.
        """

    def finish(self, arrays: Arrays, y: np.ndarray) -> Arrays:
        """The arrays of `bound` on the host, with the `radius`.

        A certificate of another classifier than the one given, such as a smoothed one, adds what that
        one predicts (`predict`) and where it is right (`right`).
        """
        del y
        return arrays

    def summary(self, arrays: Arrays, right: np.ndarray) -> dict[str, float]:
        """What a report tells beside the radii, of finished arrays and where the classifier is
        right."""
        del arrays, right
        return {}

    def files(self, arrays: Arrays, y: np.ndarray, index: np.ndarray, seconds: float) -> dict[str, str]:
        """Texts to be written beside the report, by file name, of images with this index in the data;
        all of them took so many seconds."""
        del arrays, y, index, seconds
        return {}

    def check_plan(self, plan: Plan) -> None:
        """Raises ValueError, before any long work, for a classifier that it will not cover."""
        if self.of_features and plan.uncertified:
            raise ValueError(f"it cannot cover this classifier: {plan.uncertified}")
        self._check_pixels(plan.on_inputs)

    def check(self, model: PyTree, lipschitz: Real | None) -> Float[Array, ""]:
        """The Lipschitz constant as `bound` is to be given it.

        Raises ValueError, before any long work, for a classifier that the certificate does not cover,
        and for a constant that is not known or is none.
        """
        require(model, self.needs, type(self).__name__)
        if not self.of_features:
            return jnp.float32(1.0)
        if self.needs is Certifiable:
            _check_distance(model)
            self._check_pixels(model.on_inputs)
        return _constant(model, lipschitz)

    def _check_pixels(self, on_inputs: bool) -> None:
        if self.of_pixels and not on_inputs:
            raise ValueError(
                f"{type(self).__name__} is of neighbours on the pixels themselves: give "
                "classifiers.knn(None, images, labels); in a recipe nets.Pixels() and its layer, pixels"
            )

    def admitted(
        self, model: PyTree, x: PyTree, y: PyTree, lipschitz: Real | None
    ) -> tuple[Images, Labels, Float[Array, ""]]:
        """Images, labels and constant in their types; ValueError for what cannot be certified."""
        constant = self.check(model, lipschitz)
        x = classifiers.check_images(x)
        return x, classifiers.check_labels(y, len(x), model.classes), constant

    def __call__(
        self,
        model: PyTree,
        x: GivenImages,
        y: GivenLabels,
        *,
        lipschitz: Real | None = None,
        key: Array | None = None,
    ) -> PyTree:
        """The radii of the images x of classes y, (batch,).

        `lipschitz` is the L2 Lipschitz constant of the features, which need not be given of a
        classifier on the inputs themselves. Raises ValueError for images outside [0, 1], labels out of
        range and what `check` refuses.
        """
        x, y, constant = self.admitted(model, x, y, lipschitz)
        return bounded(values.arrays(self), key, model, x, y, constant)["radius"]


def bounded(certificate, key, model, x, y, lipschitz):
    """`Certificate.bound`, compiled."""
    return neighbors.padded(_bounded, None, (certificate, key, model, lipschitz), x, y)


@functools.partial(jax.jit, static_argnums=0)
def _bounded(_, others, x, y):
    certificate, key, model, lipschitz = others
    return certificate.bound(key, model, x, y, lipschitz)


def _check_distance(model: Certifiable) -> None:
    """Raises ValueError unless the rows vote in one layer, on one device, by the Euclidean distance."""
    if len(model.banks) != 1:
        raise ValueError(f"certificates cover one layer and the classifier has {len(model.banks)}")
    if model.metric != neighbors.Euclidean():
        cosine = isinstance(model.metric, neighbors.Cosine)
        given = "cosine, whose unit vectors no constant covers" if cosine else model.metric
        raise ValueError(f"certificates are of Euclidean distances and the classifier has {given}")
    if isinstance(model.banks[0], neighbors.Sharded):
        raise ValueError("the bank is over several devices: certificates are for that of knn itself")


def _constant(model: object, lipschitz: Real | None) -> Float[Array, ""]:
    """The constant as given, or 1 of a classifier on the inputs themselves."""
    on_inputs = isinstance(model, Certifiable) and model.on_inputs
    if lipschitz is None:
        if not on_inputs:
            raise ValueError(
                "lipschitz=None: give the L2 Lipschitz constant of the features, without which a radius"
                " says nothing of images (of pixels, classifiers.knn(None, images, labels), it is 1)"
            )
        lipschitz = 1.0
    constant = given.real("lipschitz", lipschitz)
    if isinstance(constant, Array):  # traced
        return jnp.float32(constant)
    if not FLOAT.tiny <= constant <= FLOAT.max:
        raise ValueError(f"lipschitz={lipschitz}: give the constant of the features, above 0")
    if on_inputs and constant < 1:
        raise ValueError(f"lipschitz={lipschitz}: that of the inputs themselves is 1, so give no less")
    return jnp.float32(constant)
