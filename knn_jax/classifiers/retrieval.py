"""A network that answers among the neighbours it retrieves, in the place of their vote."""

import dataclasses
import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PyTree

from knn_jax import neighbors
from knn_jax.classifiers.decision import Decision
from knn_jax.classifiers.embedding import BATCH, embedded, joined
from knn_jax.classifiers.guides import FAR
from knn_jax.classifiers.inputs import (
    GivenImages,
    Images,
    Labels,
    check_alone,
    check_classes,
    check_like,
    check_top,
)
from knn_jax.classifiers.knn import KNN
from knn_jax.values import given

References = tuple[Float[Array, "batch class count key"], Float[Array, "batch row dim"]]


SHARP = 0.03  # how much colder than votes soft retrieval is


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Retrieval(Decision):
    """Classifies features among those of the k rows with the nearest keys. Make it with `retrieval`."""

    near: KNN  # of the keys
    embed: PyTree  # images -> (batch, dim)
    answer: (
        PyTree  # (features (batch, dim), neighbours' (batch, k, dim), nearness (batch, k)) -> logits
    )
    values: PyTree  # the rows' features, (row, dim)
    classes: int = dataclasses.field(metadata={"static": True})
    top: int = dataclasses.field(default=1, metadata={"static": True})

    @property
    def k(self) -> int:
        """Rows that are retrieved."""
        return self.near.k

    @property
    def images(self) -> PyTree:
        """Of the rows."""
        return self.near.images

    @property
    def labels(self) -> PyTree:
        """Of the rows."""
        return self.near.labels

    def votes(self, x: GivenImages) -> Float[Array, "batch class"]:
        """The logits.

        Raises ValueError for images that are not in [0, 1] or not of the bank's shape.
        """
        return neighbors.padded(_logits, None, self, check_like(x, self.images))

    def references(self, x: Images, count: int | None = None) -> References:
        """Keys of the `count` rows nearest to x of every class, k at least, and all their features."""
        return _references(self, x, max(given.whole("count", count or 0), self.k))

    def soft_votes(
        self, x: Images, references: References, temperature: float | Float[Array, ""]
    ) -> Float[Array, "batch class"]:
        """Logits among all references, each weighed by how near its key is; differentiable in x.

        The weight is the sigmoid of `neighbors.nearness` in units of the nearest row's, over SHARP
        times the temperature: at 0, and at the x whose references they are, the k rows retrieved
        have 1 and the others 0, and these are the logits. (Weights as soft as votes are hide what a
        small step does to the retrieval: with them `minimum_norm` found a mean norm of .597, with
        these .102, on 20 images of CIFAR-10 and the small RaCNN.)
        """
        keys, values = references
        [squared] = self.near.squared_distances(x, (keys,))
        near = neighbors.nearness(squared.reshape(len(x), -1), self.k, 1.0)
        most = lax.stop_gradient(near.max(1, keepdims=True))
        scale = jnp.maximum(SHARP * temperature * most, jnp.finfo(near.dtype).tiny)
        inside = jax.nn.log_sigmoid(near / scale)
        return self.answer(self.embed(x), values, inside)

    def retrieved(self, x: Images) -> Int[Array, "batch k"]:
        """The rows among whose features x is classified."""
        return self.near.retrieved(x)

    def rivals(self, x: Images, y: Labels, count: int) -> Float[Array, "batch count h w c"]:
        """Images of other classes near to x by their keys, see `KNN.rivals`."""
        return self.near.rivals(x, y, count)

    def held(self) -> "Held":
        """The same with its neighbours held where x had them: what an attacker can differentiate who
        knows all but the retrieval (scenario 1 of Zhao & Cho 2018)."""
        return Held(self)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Held:
    """Soft votes of a `Retrieval` whose neighbours do not follow the image."""

    whole: Retrieval

    @property
    def k(self) -> int:
        """Rows that are retrieved."""
        return self.whole.k

    @property
    def classes(self) -> int:
        """Of the logits."""
        return self.whole.classes

    def references(self, x: Images, count: int | None = None) -> Float[Array, "batch k dim"]:
        """Features of the k rows retrieved for x."""
        return _values(self.whole, x)

    def soft_votes(
        self, x: Images, references: Float[Array, "batch k dim"], temperature: float | Float[Array, ""]
    ) -> Float[Array, "batch class"]:
        """The logits of x among these."""
        return self.whole.answer(self.whole.embed(x), references, jnp.zeros(references.shape[:2]))


def retrieval(
    near: KNN,
    embed: Callable[[Images], PyTree],
    answer: Callable[..., PyTree],
    track: Callable[[range], Iterable[int]] = iter,
    *,
    top: int = 1,
) -> Retrieval:
    """A classifier by retrieval from the bank of `near`, the kNN on the keys.

    `embed` maps images to features (batch, dim); `answer(features, neighbours' (batch, k, dim),
    nearness (batch, k))` gives logits, where exp(nearness) weighs each neighbour: 0 counts it in full,
    -inf not at all. `track` wraps the range of batches, for a progress bar. It is right where the class
    is among the `top` largest logits. (Zhao & Cho 2018, section 2.2, where keys are phi', features phi
    and the answer is g of the attention's projection.)

    Raises ValueError where the keys are of more than one tap, or shapes do not fit.
    """
    if len(near.banks) != 1:
        raise ValueError(f"keys of {len(near.banks)} taps: retrieval is by one")
    embed, answer = (f if isinstance(f, Partial) else Partial(f) for f in (embed, answer))
    [values] = embedded(joined(embed), near.images, track)
    if values.ndim != 2:
        raise ValueError(f"features of shape {values.shape}, not (batch, dim): flatten them")
    one = values[:1], values[None, : near.k], jnp.zeros((1, near.k))
    shape = jax.eval_shape(answer, *one).shape
    if len(shape) != 2:
        raise ValueError(f"logits of shape {shape}: (batch, class) needed")
    top = check_top(top, shape[1])
    check_classes(near.classes, shape[1])

    def among_itself(x):
        rows = jnp.broadcast_to(x[:, None], (len(x), near.k, x.shape[1]))
        return answer(x, rows, jnp.zeros(rows.shape[:2]))

    check_alone(jax.jit(among_itself), values[:2])
    return Retrieval(near, embed, answer, values, shape[1], top)


@jax.jit
def _values(model, x):
    """NaN, so that no class is named, where a row is missing: of keys that are NaN."""
    index = model.retrieved(x)
    return lax.stop_gradient(jnp.where(index[..., None] < 0, jnp.nan, model.values[index]))


@functools.partial(jax.jit, static_argnums=0)
def _logits(_, model, x):
    def logits(x):
        return model.answer(model.embed(x), _values(model, x), jnp.zeros((len(x), model.k)))

    return neighbors.in_tiles(logits, BATCH)(x)


@functools.partial(jax.jit, static_argnames="count")
def _references(model, x, count):
    bank = model.near.banks[0]
    index = model.near.of_every_class(model.near.first(x), bank, count).index
    keys = jnp.where(index[..., None] < 0, FAR, bank[index])
    index = index.reshape(len(x), -1)
    values = jnp.where(index[..., None] < 0, 0.0, model.values[index])
    return lax.stop_gradient((keys, values))
