"""Projected gradient ascent inside a ball of fixed radius."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from knn_jax import balls, values
from knn_jax.attacks import batches, judgement
from knn_jax.attacks.ascent import Ascent, relative
from knn_jax.attacks.attack import Found
from knn_jax.classifiers import GivenImages, GivenLabels, Held, Images, Labels, Scores, Surrogate, Votes
from knn_jax.values.given import Real


@values.value
class PGD(Ascent):
    """Projected gradient ascent of the margin of soft votes (Madry et al. 2018).

    The loss is by how far another class leads in the soft vote over the references of the current
    image. Starts are uniform in the ball. What is returned is the iterate, among those at each
    retrieval and at the end of each restart, with the lowest margin of hard votes.
    """

    refresh: int = 5
    """Steps between two retrievals of the references; 0: those of the clean image throughout."""
    temperature: float | None = None
    """Temperature of the soft votes; None: 1 where rows vote, else 0.1. (On a small VGG trained
    adversarially 1 leaves 0.425 of 200 MNIST images right within 0.25 and 0.1 leaves 0.500; on pixels
    they leave 0.460 and 0.447 of 300 within 60/255.)"""

    follows = Surrogate
    baseline = False
    cites = "Madry et al. 2018, arXiv:1706.06083"

    def __post_init__(self):
        super().__post_init__()
        values.at_least(0, refresh=self.refresh)
        values.above(0, temperature=self.temperature)

    def prepare(self, key, victim, source, norm, radii):
        """Neighbours that are held are those of the clean image throughout."""
        made, source = super().prepare(key, victim, source, norm, radii)
        return dataclasses.replace(self, refresh=0) if isinstance(source, Held) else made, source

    def search(self, key, model, source, x, y, norm, eps):
        """The ascent down the margin of the source's soft votes."""
        count = batches.references(source)
        temperature = self.temperature
        if temperature is None:
            temperature = jnp.float32(1.0 if isinstance(source, Votes) else 0.1)

        def retrieve(keys, z, y):
            return source.references(z, count)

        def loss(z, y, references):
            return -judgement.margin_loss(model, source.soft_votes(z, references, temperature), y)

        return self.ascend(key, model, x, y, retrieve, loss, norm, eps, refresh=self.refresh)


@values.value
class LossPGD(Ascent):
    """Projected gradient ascent of a loss, by a recipe that which the network was trained with.

    The loss, `(images, y) -> (batch,)`, takes the place of a source. That of a recipe is taken of
    images as they are, without noise or an adversary; of another source it is the cross-entropy of its
    logits (the transfer attacks of Serban et al. 2021).
    """

    compare: int = 5
    """Steps between two iterates whose hard votes are compared; 0: only the last of each start."""

    follows = object
    up_the_loss = True
    cites = "Madry et al. 2018, arXiv:1706.06083"

    def __post_init__(self):
        super().__post_init__()
        values.at_least(0, compare=self.compare)

    def check_plan(self, plan):
        """Also for a network whose loss is not of one image and its class."""
        super().check_plan(plan)
        if not plan.one_image:
            raise ValueError(
                "LossPGD is for defenses whose loss is of one image and its class: use PGD"
            )

    def prepare(self, key, victim, source, norm, radii):
        """The loss stands in the place of the source."""
        return self, victim.training_loss(source)

    def source(self, model, source):
        """The loss as a pytree."""
        if source is None:
            raise ValueError("LossPGD needs a loss as its source: (images, y) -> (batch,)")
        return source if isinstance(source, Partial) else Partial(source)

    def search(self, key, model, source, x, y, norm, eps):
        """The ascent up the loss `source`."""

        def nothing(keys, z, y):
            return ()

        def loss(z, y, _):
            each = source(z, y)
            if each.shape != y.shape:
                raise ValueError(
                    f"the loss is {each.shape}: one number for each of {len(y)} images needed"
                )
            return each

        return self.ascend(key, model, x, y, nothing, loss, norm, eps, refresh=self.compare, searches=0)


def pgd(
    key: Array,
    model: Scores,
    x: GivenImages,
    y: GivenLabels,
    *,
    norm: balls.Norm = "linf",
    eps: Real,
    steps: int = 20,
    step_size: Real | None = None,
    restarts: int = 1,
    refresh: int = 5,
    temperature: float | None = None,
    loss: Callable[[Images, Labels], Float[Array, " batch"]] | None = None,
    source: Surrogate | None = None,
) -> Found:
    """`PGD`, or with a `loss` of images and labels `LossPGD`, inside the eps-ball around x.

    Where a `source` is given, its soft votes and references stand in for the model's own, which is only
    asked for its decisions: the gray box. `step_size` is in units of the images, 2.5 eps / steps unless
    given.

    Raises ValueError for images outside [0, 1], labels out of range, numbers that are too small and an
    `eps` above 1 in Linf.
    """
    share = relative(step_size, eps)
    if loss is not None:
        by_loss = LossPGD(steps, share, restarts, compare=refresh)
        return by_loss(key, model, x, y, norm=norm, eps=eps, source=loss)
    made = PGD(steps, share, restarts, refresh, temperature)
    return made(key, model, x, y, norm=norm, eps=eps, source=source)
