"""The exact radius: the smallest change of the features that takes the vote, between two bounds."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Bool, Float

from knn_jax import values
from knn_jax.certificates import exact_k, nearest_cell
from knn_jax.certificates.certificate import Certificate
from knn_jax.classifiers import Certifiable, GivenImages, GivenLabels, Images, Labels
from knn_jax.values.given import Real


class ExactRadius(NamedTuple):
    """Bounds on the norm of the smallest perturbation that changes the vote.

    lower   no perturbation below it does, float32's rounding in the vote included; 0: none needed
    upper   norm of a perturbation of the features that does, by more than rounding; inf: none found
    closed  whether every cell was settled: only rounding and the solver's tolerance are between the two
    point   the perturbed features

    Where features or their squares are no numbers nothing is known: 0, inf, and not closed.
    """

    lower: Float[Array, " batch"]
    upper: Float[Array, " batch"]
    closed: Bool[Array, " batch"]
    point: Float[Array, "batch dim"]


@values.value
class Exact(Certificate):
    """The smallest change of the features that takes the vote from class y, bracketed; for odd k.

    `closed` is false where the work was broken off, and for some votes divided among three or more
    classes; the radius is a lower bound all the same.
    """

    box: bool = False
    """Whether perturbed pixels must stay in [0, 1], which classifiers on the inputs themselves can
    say."""

    cites = "after Wang et al. 2019, A Primal-Dual Perspective, arXiv:1906.03972; k > 1 is ours"

    def bound(self, key, model, x, y, lipschitz):
        """The lower ends of the brackets, and which are closed."""
        del key
        found = self.bracket(model, x, y, lipschitz)
        return {"radius": found.lower, "closed": found.closed}

    def bracket(
        self, model: Certifiable, x: Images, y: Labels, lipschitz: Float[Array, ""]
    ) -> ExactRadius:
        """Both ends, and the perturbed features; inside a `jit`."""
        home = nearest_cell if model.k == 1 else exact_k
        return ExactRadius(*home.bracket(model, x, y, lipschitz, box=self.box))

    def summary(self, arrays, right):
        """The share of images whose radius is closed."""
        del right
        return {"closed": float(arrays["closed"].mean())}

    def check(self, model, lipschitz):
        """As every certificate, and for odd k, and where the box is one of the features."""
        constant = super().check(model, lipschitz)
        self._check(model.k, model.on_inputs)
        return constant

    def check_plan(self, plan):
        """As every certificate, and for odd k, and where the box is one of the features."""
        super().check_plan(plan)
        self._check(plan.k, plan.on_inputs)

    def _check(self, k: int, on_inputs: bool) -> None:
        if k % 2 == 0:
            raise ValueError(f"k={k}: exact is for odd k; voronoi bounds the radius for any k")
        if self.box and not on_inputs:
            raise ValueError(
                "box=True is for a classifier on the inputs themselves: "
                "classifiers.knn(None, images, ...)"
            )

    def __call__(self, model, x, y, *, lipschitz=None, key=None) -> ExactRadius:
        """The brackets; without a constant, of a perturbation of the features."""
        del key
        x, y, constant = self.admitted(model, x, y, 1.0 if lipschitz is None else lipschitz)
        return _bracketed(self, model, x, y, constant)


@jax.jit
def _bracketed(certificate, model, x, y, lipschitz):
    return certificate.bracket(model, x, y, lipschitz)


def exact(
    model: Certifiable,
    x: GivenImages,
    y: GivenLabels,
    *,
    lipschitz: Real | None = None,
    box: bool = False,
) -> ExactRadius:
    """`Exact`: the smallest change in L2 of the features that takes the vote from class y, bracketed.

    It is the radius in the space of the features unless their constant `lipschitz` is given: then
    `lower` bounds the perturbation of the image, and no such bound can be above `upper`. Of a
    classifier on the inputs themselves, `classifiers.knn(None, ...)`, it is the smallest perturbation,
    with `box` among those that keep pixels in [0, 1].

    For k = 1 the change to a row w of another class is the projection of x on the cell of w against all
    rows z of class y, a quadratic program (Wang et al. 2019, arXiv:1906.03972). Cells are taken in the
    order of their bounds, which come from bisectors at first. A program knows the few z that an exact
    search at its solution found nearer than w. The search ends where the next cell's bound is above
    `upper`. Any weights of the dual prove a lower bound, any point in a cell an upper one. Time is
    proportional to images x rows.

    For odd k above 1 the cells are those of sets of rows (`exact_k`), by the same programs, and there
    are many: on MNIST's pixels k = 3 takes half a second an image, k = 5 did not end in minutes.
    `lower` excludes a majority of rows of other classes among the k, which takes the vote from y in two
    classes. With more classes `upper` is that of a point that the vote itself is against; where votes
    of other classes are too divided to outvote y, the two bounds stay apart and it is not `closed`.

    Raises ValueError for even k, and for a `box` around features that are not the inputs.
    """
    return Exact(box)(model, x, y, lipschitz=lipschitz)
