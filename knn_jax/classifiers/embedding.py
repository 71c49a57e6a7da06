"""Features of images: of several layers in one pass, in batches, and as a metric wants them."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from knn_jax import losses, neighbors
from knn_jax.classifiers.inputs import Images, check_alone
from knn_jax.classifiers.on_host import OnHost

Features = Callable[[Images], PyTree]  # -> (batch, dim), or a tuple of these
BATCH = 500  # images classified at once; their features are computed together


def joined(*functions: Features) -> Partial:
    """One function that gives the layers of all, a tuple."""
    return Partial(_joined, tuple(f if isinstance(f, Partial) else Partial(f) for f in functions))


def prepared(features: Partial, metric: neighbors.Metric) -> Partial:
    """The features as this metric wants them: for the cosine divided by their length."""
    return Partial(_units, features) if isinstance(metric, neighbors.Cosine) else features


def feature_metric(metric: neighbors.Metric) -> neighbors.Metric:
    """The metric that measures features which are `prepared` for another.

    For the cosine it is the Euclidean: of features of length 1 it has the same order, and its square,
    2 (1 - cos), is what soft votes and attacks descend.
    """
    return neighbors.Euclidean() if isinstance(metric, neighbors.Cosine) else metric


def embedded(
    features: Partial,
    images: Images | OnHost,
    track: Callable[[range], Iterable[int]],
) -> tuple[Float[Array, "row ..."], ...]:
    """For each layer the features of all images, computed in batches that `track` is told of."""
    if isinstance(images, Tracer):
        return neighbors.in_tiles(features, BATCH)(images)
    batches = range(0, len(images), BATCH)
    parts = [_features(features, images[i : i + BATCH]) for i in track(batches)]
    check_alone(lambda x: _features(features, x), images[:BATCH], parts[0])
    return tuple(jnp.concatenate(bank) for bank in zip(*parts, strict=True))


def flat(x):
    """The pixels of images, (batch, dim)."""
    return x.reshape(len(x), -1)


def _joined(functions, x):
    found = (function(x) for function in functions)
    return tuple(tap for taps in found for tap in (taps if isinstance(taps, tuple) else (taps,)))


def _units(features, x):
    return tuple(losses.unit(tap) for tap in features(x))


@jax.jit
def _features(features, x):
    return features(x)
