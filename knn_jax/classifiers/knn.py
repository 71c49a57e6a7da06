"""Classifiers that decide by the k nearest rows of a bank, on one or several taps."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree, Shaped

from knn_jax import neighbors
from knn_jax.classifiers.decision import NOBODY, Decision
from knn_jax.classifiers.embedding import (
    BATCH,
    Features,
    embedded,
    feature_metric,
    flat,
    joined,
    prepared,
)
from knn_jax.classifiers.guides import FAR, Guides, find_guides, find_rivals
from knn_jax.classifiers.inputs import (
    GivenImages,
    Images,
    Labels,
    check_images,
    check_labels,
    check_like,
)
from knn_jax.classifiers.on_host import OnHost
from knn_jax.values import given
from knn_jax.values.given import Lists, Whole

References = tuple[Float[Array, "batch class count _"], ...]  # of each tap


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KNN(Decision):
    """k nearest neighbours on one or several taps. Make it with `knn`.

    A pytree: its arrays travel through `jit` as arguments. PyTree other classifier with these methods
    can be attacked in its place. The fields have no array types, for JAX also puts placeholders there.
    """

    features: PyTree  # images -> (batch, dim) of each tap, all in one pass of a network
    banks: tuple[PyTree, ...]  # (row, dim) for each tap
    images: PyTree  # (row, height, width, channel)
    labels: PyTree  # (row,)
    k: int = dataclasses.field(metadata={"static": True})
    classes: int = dataclasses.field(metadata={"static": True})
    metric: neighbors.Metric = dataclasses.field(  # of the cosine features have length 1
        default=neighbors.Euclidean(), metadata={"static": True}
    )
    on_inputs: bool = dataclasses.field(default=False, metadata={"static": True})  # features are pixels

    def first(self, x: Images) -> Float[Array, "batch dim"]:
        """The features of the first tap."""
        return self.features(x)[0]

    def votes(self, x: GivenImages) -> Int[Array, "batch class"]:
        """How many of the k nearest rows are of each class, summed over taps.

        Raises ValueError for images that are not in [0, 1] or not of the bank's shape.
        """
        return neighbors.padded(_votes, None, self, check_like(x, self.images))

    def references(self, x: Images, count: int | None = None) -> References:
        """The features of the `count` (k) rows nearest to x of every class, for each tap."""
        return _references(self, x, self.k if count is None else given.whole("count", count))

    def soft_votes(
        self, x: Images, references: References, temperature: float | Float[Array, ""]
    ) -> Float[Array, "batch class"]:
        """Votes of the references, differentiable in x, summed over taps.

        At temperature 0 and at the x whose k references of each class they are, these are the hard
        votes; see `neighbors.soft_votes`.
        """
        squared = self.squared_distances(x, references)
        first, *others = (neighbors.soft_votes(d, self.k, temperature) for d in squared)
        return sum(others, first)

    def ranks(
        self, x: Images, references: References, y: Labels, temperature: float | Float[Array, ""]
    ) -> Float[Array, "batch class"]:
        """By how little each class misses taking the vote from class y, see `neighbors.ranks`.

        There must be more than k / 2 references of every class.
        """
        return neighbors.ranks(self.squared_distances(x, references), y, self.k, temperature)

    def squared_distances(
        self, x: Images, references: References
    ) -> tuple[Float[Array, "batch class count"], ...]:
        """From x to its references in every tap: squares of what the search goes by."""
        metric = feature_metric(self.metric)

        def squared(query, rows):
            if metric == neighbors.Euclidean():
                return jnp.sum(jnp.square(query - rows), -1)  # without the slope of a root
            return jnp.square(neighbors.fast_distance(metric, query, rows))

        taps = zip(self.features(x), references, strict=True)
        return tuple(squared(query[:, None, None], rows) for query, rows in taps)

    def nearest(self, query: PyTree, bank: PyTree, k: int, **among: PyTree) -> neighbors.Neighbors:
        """The k rows of a bank nearest to features, by the classifier's metric."""
        return neighbors.search(query, bank, k, metric=feature_metric(self.metric), **among)

    def of_every_class(self, query: PyTree, bank: PyTree, count: int) -> neighbors.Neighbors:
        """The `count` rows of every class nearest to features, (batch, class, count)."""
        every = jnp.broadcast_to(jnp.arange(self.classes), (len(query), self.classes))
        return self.nearest(query, bank, count, labels=self.labels, only=every)

    def retrieved(self, x: Images) -> Int[Array, "batch k"]:
        """The rows nearest to x by the first tap."""
        return _retrieved(self, x)

    def guides(self, x: Images, y: Labels, count: int) -> Guides:
        """The `count` rows nearest to x of class y and of the nearest other class.

        That is the class whose rows have the least mean squared distance, by the first tap.
        """
        return find_guides(self, x, y, count)

    def rivals(self, x: Images, y: Labels, count: int) -> Float[Array, "batch count h w c"]:
        """The images of the `count` rows nearest to x that are not of class y, by the first tap.

        At most a quarter of them are of one class (one, where there are up to four). An image whose
        features are NaN has none and is given itself.
        """
        return find_rivals(self, x, y, count)


def knn(
    features: Features | Sequence[Features] | None,
    images: Float[Array | np.ndarray, "row height width channel"] | Lists | OnHost,
    labels: Shaped[Array | np.ndarray, " row"] | Lists,
    *,
    k: Whole = 75,
    metric: neighbors.Metric | neighbors.Name = "l2",
    names: Sequence[str] = (),
    track: Callable[[range], Iterable[int]] = iter,
) -> KNN:
    """A kNN classifier whose bank is `features` of `images`, arrays, lists or `OnHost`.

    `features` maps images to (batch, dim), or to a tuple of these, the taps of one pass; a sequence of
    such functions makes several taps too. Their votes are added (Sitawarin & Wagner 2019, section 2.3).
    None makes the flattened inputs the features: certificates then know that distances are those of
    images. Give a function with parameters as `jax.tree_util.Partial(function, parameters)`: they then
    stay arguments of compiled programs instead of constants in them. The `metric` is one of `neighbors`
    or of your own (see `neighbors.Metric`), whose distances must not be negative. For the cosine,
    `"cosine"` or `neighbors.Cosine()`, features are divided by their length first: distances of unit
    vectors have its order. `names` of the taps are used in errors; `track` wraps the
    range of batches, for a progress bar.

    Raises ValueError for images outside [0, 1] or not (row, height, width, channel), labels out of
    range or a class without rows, a k the bank cannot answer, features that are not finite and what is
    no metric. Warns where the features of an image depend on its batch, as in training.
    """
    metric = neighbors.named(metric)
    if isinstance(metric, neighbors.InnerProduct):
        raise ValueError(
            f"metric={metric!r} may be negative, and soft votes square it: give a distance"
        )
    functions = [flat] if features is None else features
    every = joined(*functions) if isinstance(functions, Sequence) else joined(functions)
    every = prepared(every, metric)
    on_inputs = features is None and not isinstance(metric, neighbors.Cosine)
    k = given.whole("k", k)
    images = images if isinstance(images, OnHost) else given.array("images", images)
    rows = len(images) if images.ndim else 1
    if rows == 0:
        raise ValueError("the bank is empty: give it at least one image")
    if not 1 <= k <= rows:
        raise ValueError(f"k={k} neighbours asked of a bank of {rows} rows: use 1 to {rows}")
    images = images if isinstance(images, OnHost) else check_images(images)
    labels = check_labels(labels, rows)
    like = jax.ShapeDtypeStruct(images.shape, images.dtype)
    shapes = [tap.shape for tap in jax.eval_shape(every, like)]
    names = tuple(names) or tuple(f"tap {i}" for i in range(len(shapes)))
    if not shapes or len(names) != len(shapes):
        raise ValueError(f"{len(names)} names for {len(shapes)} taps: give one name to each tap")
    for name, shape in zip(names, shapes, strict=True):
        if len(shape) != 2:
            raise ValueError(f"{name}: features of shape {shape}, not (batch, dim): flatten them")
    banks = embedded(every, images, track)
    for name, bank in zip(names, banks, strict=True):
        if not isinstance(bank, Tracer):
            bad = np.flatnonzero(~jnp.isfinite(bank).all(1))
            if bad.size:
                raise ValueError(f"{name}: the features of bank row {bad[0]} are NaN or infinite")
    classes = int(np.asarray(labels).max()) + 1
    return KNN(every, banks, images, labels, k, classes, metric, on_inputs)


def shard(model: KNN, mesh: Mesh) -> KNN:
    """The classifier with its banks over the devices of a `knn_jax.mesh.make`.

    It decides as before, and so do the attacks that retrieve rows; `attacks.kfgsm`, `dknn` and
    `imitate`, which go over the whole bank, and certificates refuse it. With several processes each
    gives its own rows to `neighbors.shard` instead.
    """
    return dataclasses.replace(model, banks=tuple(neighbors.shard(bank, mesh) for bank in model.banks))


@functools.partial(jax.jit, static_argnums=0)
def _votes(_, model, x):
    def votes(x):
        taps = zip(model.features(x), model.banks, strict=True)
        near = (model.nearest(query, bank, model.k) for query, bank in taps)
        voters = (jnp.where(n.index < 0, NOBODY, model.labels[n.index]) for n in near)
        counts = (neighbors.votes(classes, model.classes) for classes in voters)
        return sum(counts, jnp.zeros((), jnp.int32))

    return neighbors.in_tiles(votes, BATCH)(x)


@jax.jit
def _retrieved(model, x):
    return model.nearest(model.first(x), model.banks[0], model.k).index


@functools.partial(jax.jit, static_argnames="count")
def _references(model, x, count):
    def rows(query, bank):
        near = model.of_every_class(query, bank, count)
        return jnp.where(near.index[..., None] < 0, FAR, bank[near.index])

    pairs = zip(model.features(x), model.banks, strict=True)
    return lax.stop_gradient(tuple(rows(query, bank) for query, bank in pairs))
