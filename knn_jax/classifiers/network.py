"""A network that decides by itself, in the place of a classifier by neighbours."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from knn_jax import neighbors
from knn_jax.classifiers.decision import Decision
from knn_jax.classifiers.embedding import BATCH, flat
from knn_jax.classifiers.inputs import (
    GivenImages,
    GivenLabels,
    Images,
    Labels,
    check_alone,
    check_classes,
    check_images,
    check_top,
)
from knn_jax.classifiers.knn import KNN, knn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Network(Decision):
    """A network that decides by its largest logit, for attacks to judge. Make it with `network`.

    It has no references, and its logits are its votes, hard and soft. Attacks that start from images of
    other classes find them among its `pixels`, if it has any.
    """

    logits: PyTree  # images -> (batch, class)
    classes: int = dataclasses.field(metadata={"static": True})
    pixels: KNN | None = None  # of the images it was given
    k: int = dataclasses.field(default=1, metadata={"static": True})
    top: int = dataclasses.field(default=1, metadata={"static": True})

    @property
    def images(self) -> PyTree:
        """(row, height, width, channel); AttributeError where it was given none."""
        if self.pixels is None:
            raise AttributeError("images")
        return self.pixels.images

    def votes(self, x: GivenImages) -> Float[Array, "batch class"]:
        """The logits."""
        return neighbors.padded(_logits, None, self, check_images(x))

    def references(self, x: Images, count: int | None = None) -> tuple[()]:
        """None."""
        return ()

    def soft_votes(
        self, x: Images, references: tuple[()], temperature: float | Float[Array, ""]
    ) -> Float[Array, "batch class"]:
        """The logits."""
        return self.logits(x)

    def rivals(self, x: Images, y: Labels, count: int) -> Float[Array, "batch count h w c"]:
        """Its images of other classes that are nearest in pixels, as `KNN.rivals`."""
        if self.pixels is None:
            raise ValueError("the network has no images to start from: give network(..., labels=)")
        return self.pixels.rivals(x, y, count)


def network(
    logits: Callable[[Images], PyTree],
    x: GivenImages,
    labels: GivenLabels | None = None,
    *,
    top: int = 1,
) -> Network:
    """The network's own decision on images like x, in place of its neighbours'.

    With the `labels` of x, attacks may start from these images. It is right where the class is among
    the `top` largest logits. Raises ValueError unless `logits(x)` is (batch, class), of more classes
    than `top` and no fewer than have labels. Warns where the logits of an image depend on its batch, as
    in training.
    """
    logits = logits if isinstance(logits, Partial) else Partial(logits)
    x = check_images(x)
    shape = jax.eval_shape(logits, x[:1]).shape
    if len(shape) != 2:
        raise ValueError(f"logits of shape {shape}: (batch, class) needed")
    top = check_top(top, shape[1])
    check_alone(Partial(_applied, logits), jnp.stack([x[0], 1 - x[0]]))
    pixels = None if labels is None else knn(flat, x, labels, k=1)
    check_classes(pixels.classes if pixels else 0, shape[1])
    return Network(logits, shape[1], pixels, top=top)


@jax.jit
def _applied(function, x):
    return function(x)


@functools.partial(jax.jit, static_argnums=0)
def _logits(_, model, x):
    return neighbors.in_tiles(model.logits, BATCH)(x)
