"""The metrics under test, one of them a user's own, and their distances in float64."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from knn_jax.neighbors import Chebyshev, Cosine, Euclidean, InnerProduct, Minkowski, Subspaces

KINDS = ["gaussian", "clustered", "offset", "duplicated", "grid", "sorted", "low rank", "needle"]


@dataclass(frozen=True)
class Manhattan:
    """What a user writes: nothing but a distance."""

    def distance(self, query, rows):
        return jnp.sum(jnp.abs(query - rows), -1)


BOUNDED = [Euclidean(), Euclidean(squared=True), Cosine(), InnerProduct(), Subspaces(2), Subspaces(3)]
ORACLES = {  # metrics that are a distance alone, and what they are of differences in float64
    Chebyshev(): lambda apart: np.abs(apart).max(-1),
    Manhattan(): lambda apart: np.abs(apart).sum(-1),
    Minkowski(3.0): lambda apart: (np.abs(apart) ** 3).sum(-1) ** (1 / 3),
}
PLAIN = list(ORACLES)
METRICS = [*BOUNDED, *PLAIN]
APART = [
    Euclidean(),
    Cosine(),
    InnerProduct(),
    Subspaces(2),
]  # in more than what is returned


def sample(kind, rows=600, queries=20, dim=30):
    rng = np.random.default_rng(0)
    bank, query = rng.normal(size=(rows, dim)), rng.normal(size=(queries, dim))
    if kind in ("clustered", "sorted"):
        centres = 20 * rng.normal(size=(5, dim))
        label = rng.integers(5, size=rows)
        bank = bank * 0.1 + centres[np.sort(label) if kind == "sorted" else label]
        query = query * 0.1 + centres[rng.integers(5, size=queries)]
    if kind == "offset":
        bank, query = bank + 1000, query + 1000
    if kind == "duplicated":
        bank = np.tile(bank[: rows // 10], (10, 1))
    if kind == "grid":
        bank, query = rng.integers(0, 2, size=bank.shape), rng.integers(0, 2, size=query.shape)
    if kind == "low rank":
        plane = rng.normal(size=(2, dim))
        bank, query = bank[:, :2] @ plane[: min(2, dim)], query[:, :2] @ plane[: min(2, dim)]
    if kind == "needle":  # neighbours closer together than the matmul can tell apart
        side = 300 * (2 * rng.integers(0, 2, size=rows) - 1)
        bank, query = bank * 0.01 + side[:, None], query * 0.01 + 300
    return jnp.asarray(query, jnp.float32), jnp.asarray(bank, jnp.float32)


def brute(metric, query, bank):
    """Distances of all pairs in float64, and how far from them float32 may be.

    The roundings of a sum of D terms pile up like a random walk; they are relative to the terms, which
    are of one sign in a distance and as large as the norms in a product.
    """
    query, bank = np.asarray(query, np.float64), np.asarray(bank, np.float64)
    rounding = (8 + 2 * np.sqrt(query.shape[1])) * 2**-24
    apart = query[:, None] - bank[None]
    norms = np.linalg.norm(query, axis=1)[:, None] * np.linalg.norm(bank, axis=1)
    match metric:
        case InnerProduct():
            return -query @ bank.T, rounding * norms
        case Cosine():
            cosine = np.divide(query @ bank.T, norms, where=norms > 0, out=np.zeros(norms.shape))
            return 1 - cosine, np.full(norms.shape, rounding)
        case Euclidean(squared):
            power = 1 + squared
            distance = np.linalg.norm(apart, axis=-1) ** power
            return distance, power * rounding * distance
        case Subspaces(count):
            parts = apart.reshape(*apart.shape[:2], count, -1)
            distance = np.linalg.norm(parts, axis=-1).sum(-1)
        case _:
            distance = ORACLES[metric](apart)
    return distance, rounding * distance


def check(near, metric, query, bank, k, eligible=None):
    """Float32 distances of the nearest, of their own rows, in order, the lower row first at ties."""
    distance, tolerance = brute(metric, query, bank)
    if eligible is not None:
        distance = np.where(eligible, distance, np.inf)
    found, index = np.asarray(near.distance, np.float64), np.asarray(near.index)
    assert found.shape == index.shape == (len(query), k)
    order = np.argsort(distance, 1, kind="stable")[:, :k]
    nearest = np.take_along_axis(distance, order, 1)
    missing = np.isinf(nearest)
    np.testing.assert_array_equal(index < 0, missing)
    np.testing.assert_array_equal(np.isinf(found), missing)
    # What rounding may swap is of one distance but for the tolerance; the larger is either's.
    swapped = np.maximum(*(np.take_along_axis(tolerance, np.maximum(i, 0), 1) for i in (index, order)))
    own = np.take_along_axis(distance, np.maximum(index, 0), 1)
    for expected, allowed in ((nearest, swapped), (own, np.take_along_axis(tolerance, index, 1))):
        error = np.abs(found[~missing] - expected[~missing])
        assert (error <= allowed[~missing]).all(), f"{error.max()} where {allowed.max()} is allowed"
    for row, chosen in enumerate(index):
        chosen = chosen[chosen >= 0]
        assert len(set(chosen)) == len(chosen), "each row once"
        assert np.isfinite(distance[row, chosen]).all(), "eligible"
    before, after = found[:, :-1], found[:, 1:]
    assert (before <= after).all(), "in order"
    if metric != Euclidean():  # rows are ranked by the square, which tells more of them apart
        tied = (before == after) & ~missing[:, 1:]
        assert (np.diff(index)[tied] > 0).all(), "lower row first"


def exact_ties(metric, kind):
    """Whether what is equally far is so in floating point too, in whatever order it is summed."""
    return kind == "duplicated" or (kind == "grid" and metric not in (Cosine(), Subspaces(3)))


def check_same(near, other, metric, kind, query, bank, k=5):
    """One answer but for rounding, which differs between programs and may swap what is all but tied."""
    check(near, metric, query, bank, k)
    rows = np.asarray(near.index)
    tolerance = np.take_along_axis(brute(metric, query, bank)[1], rows, 1)
    assert (np.abs(np.asarray(near.distance) - np.asarray(other.distance)) <= 2 * tolerance).all(), kind
    if kind == "gaussian" or exact_ties(metric, kind):
        np.testing.assert_array_equal(near.index, other.index, kind)
