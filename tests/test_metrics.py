"""The contract of a metric: what holds of each, of this package's and of a user's own."""

import inspect
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import BOUNDED, KINDS, METRICS, PLAIN, Manhattan, brute, check, exact_ties, sample
from victims import digits, flat
from ways import WAYS, forced  # noqa: F401

from knn_jax import attacks, certificates, classifiers, losses, mesh, neighbors
from knn_jax.neighbors import Chebyshev, Cosine, Euclidean, InnerProduct, Subspaces

pytestmark = pytest.mark.usefixtures("quick")
FEW, K = 8, 5
DISTANCES = [metric for metric in METRICS if metric != InnerProduct()]
EVERY_WAY = [(metric, way) for metric in BOUNDED for way in WAYS] + [(m, "direct") for m in PLAIN]
TWO_WAYS = "direct", "large"
each = pytest.mark.parametrize("metric", METRICS, ids=str)
distances = pytest.mark.parametrize("metric", DISTANCES, ids=str)
search = jax.jit(neighbors.search, static_argnames=("k", "metric", "coarse"))  # compiled for many data


@each
def test_it_is_a_metric_and_a_value(metric):
    assert isinstance(metric, neighbors.Metric)
    assert isinstance(metric, neighbors.BoundedMetric) == (metric in BOUNDED)
    assert neighbors.named(metric) is metric
    assert hash(metric) == hash(type(metric)(**vars(metric)))


def test_names_are_of_metrics():
    names = ("l2", "squared_l2", "cosine", "inner_product", "linf")
    values = Euclidean(), Euclidean(squared=True), Cosine(), InnerProduct(), Chebyshev()
    assert tuple(map(neighbors.named, names)) == values


@pytest.mark.parametrize(("metric", "way"), EVERY_WAY, ids=str)
def test_search_finds_the_nearest_whichever_way_it_goes(forced, metric, way):  # noqa: F811
    forced(way)
    for kind in KINDS:
        query, bank = sample(kind)
        near = search(query, bank, K, metric=metric)
        check(near, metric, query, bank, K)
        if exact_ties(metric, kind):
            order = np.argsort(np.float32(brute(metric, query, bank)[0]), 1, kind="stable")
            np.testing.assert_array_equal(near.index, order[:, :K], kind)


@pytest.mark.parametrize(
    ("metric", "way"), [pair for pair in EVERY_WAY if pair[1] in TWO_WAYS], ids=str
)
def test_only_and_without_restrict_it(forced, metric, way):  # noqa: F811
    forced(way)
    labels = np.arange(600) % 4
    chosen = np.arange(FEW) % 5  # no row has the last of the labels
    for kind in ("gaussian", "sorted", "duplicated"):
        query, bank = sample(kind, queries=FEW)
        for how, eligible in (
            ("only", labels == chosen[:, None]),
            ("without", labels != chosen[:, None]),
        ):
            among = {"labels": jnp.asarray(labels), how: jnp.asarray(chosen)}
            near = search(query, bank, K, metric=metric, **among)
            check(near, metric, query, bank, K, eligible)


@pytest.mark.parametrize("metric", PLAIN, ids=str)
def test_a_plain_metric_is_searched_in_tiles_pieces_and_on_devices(monkeypatch, metric):
    query, bank = sample("gaussian")
    expected = search(query, bank, K, metric=metric)
    pieces = neighbors.stream(query, np.asarray(bank), K, metric=metric, rows=70)
    devices = neighbors.search(query, neighbors.shard(bank, mesh.make(rows=4)), K, metric=metric)
    monkeypatch.setattr(neighbors.tiles, "MEASURED", 30_000)
    tiled = jax.jit(lambda query, bank: neighbors.search(query, bank, K, metric=metric))(query, bank)
    for near in (pieces, devices, tiled):
        np.testing.assert_array_equal(near.index, expected.index)
        np.testing.assert_allclose(near.distance, expected.distance, rtol=1e-6)


@pytest.mark.parametrize("metric", PLAIN, ids=str)
def test_of_a_plain_metric_too_what_is_not_finite_is_nobodys_neighbour(metric):
    query, bank = sample("gaussian")
    order = np.argsort(brute(metric, query, bank)[0], 1)
    bad = bank.at[order[0, 0], 3].set(jnp.nan).at[order[0, 1], 2].set(-jnp.inf)
    near = neighbors.search(query.at[1, 0].set(jnp.inf), bad, K, metric=metric)
    np.testing.assert_array_equal(near.index[0], order[0, 2 : K + 2])
    np.testing.assert_array_equal(near.index[1], -1)


@distances
def test_it_is_symmetric_and_zero_to_itself(metric):
    query, bank = sample("gaussian", rows=40)
    there = metric.distance(query[:, None], bank[None])
    back = metric.distance(bank[:, None], query[None])
    np.testing.assert_allclose(there, back.T, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(metric.distance(query, query), 0, atol=1e-7)
    assert (there > 0).all()


@each
def test_leading_axes_broadcast(metric):
    query, bank = sample("gaussian", rows=24, queries=2)
    rows = bank.reshape(1, 4, 6, 30)
    found = metric.distance(query[:, None, None], rows)
    assert found.shape == (2, 4, 6)
    every, allowed = brute(metric, query, bank)
    np.testing.assert_allclose(found.reshape(2, 24), every, atol=allowed.max())
    np.testing.assert_allclose(neighbors.fast_distance(metric, query[:, None, None], rows), found, 1e-5)


@distances
def test_all_pairs_at_once_have_its_distances_and_slopes(metric):
    """KFGSM's and the IdResNet's: by matmuls, where there is one."""
    query, bank = sample("gaussian", rows=24, queries=4)
    found, pull = jax.vjp(lambda q: losses.pairwise_distances(q, bank, metric), query)
    expected, own = jax.vjp(lambda q: metric.distance(q[:, None], bank[None]), query)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pull(found), own(found), rtol=1e-4, atol=1e-5)


@each
def test_gradients_are_those_of_float64_differences(metric):
    """In a random direction of query and bank; what is missing for lack of eligible rows has none."""
    rng = np.random.default_rng(0)
    query, bank, weight = (rng.normal(size=shape) for shape in ((4, 6), (12, 6), (4, 5)))
    labels, only = np.arange(12) % 4, np.arange(4)  # three rows for five neighbours
    eligible = labels == only[:, None]

    def total(query, bank):
        near = neighbors.search(
            query, bank, 5, metric=metric, labels=jnp.asarray(labels), only=jnp.asarray(only)
        )
        return jnp.where(near.index < 0, 0.0, jnp.float32(weight) * near.distance).sum()

    def total_float64(query, bank):
        distance = np.where(eligible, brute(metric, query, bank)[0], np.inf)
        return (np.sort(distance, 1)[:, :3] * weight[:, :3]).sum()

    gradients = jax.jit(jax.grad(total, (0, 1)))(jnp.float32(query), jnp.float32(bank))
    for direction in (rng.normal(size=(4, 6)), 0), (0, rng.normal(size=(12, 6))):
        step = [1e-5 * np.asarray(part) for part in direction]
        ahead = total_float64(query + step[0], bank + step[1])
        behind = total_float64(query - step[0], bank - step[1])
        slope = sum((np.asarray(g) * d).sum() for g, d in zip(gradients, direction, strict=True))
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-4, atol=1e-4)


@each
def test_gradients_are_finite_on_a_row_and_at_zero(metric):
    """For a query on a row, twice in the bank, and one that is zero; zero at the least distance."""
    bank = jnp.asarray(np.random.default_rng(0).normal(size=(12, 6)), jnp.float32)
    bank = bank.at[3].set(bank[1]).at[5].set(0.0)

    def total(query, bank):
        return neighbors.search(query, bank, 2, metric=metric).distance.sum()

    query = jnp.stack([bank[1], bank[5], bank[0]])
    to_query, to_bank = jax.jit(jax.grad(total, (0, 1)))(query, bank)
    assert np.isfinite(to_query).all()
    assert np.isfinite(to_bank).all()
    if metric not in (InnerProduct(), Manhattan()):  # which has JAX's slope of |x| at 0
        # The nearest two are the row itself, twice.
        np.testing.assert_allclose(to_query[0], np.zeros(6), atol=1e-6)


def test_distances_worked_by_hand():
    """(3, 4, 0, 0) and its double, the opposite, another direction, and zero."""
    query = jnp.array([[3.0, 4.0, 0.0, 0.0]])
    bank = jnp.array(
        [[6.0, 8.0, 0.0, 0.0], [-3.0, -4.0, 0.0, 0.0], [0.0, 4.0, 0.0, 5.0], [0.0, 0.0, 0.0, 0.0]]
    )
    expected = {
        Euclidean(): [5, 10, 34**0.5, 5],
        Euclidean(squared=True): [25, 100, 34, 25],
        Cosine(): [0, 2, 1 - 16 / (5 * 41**0.5), 1],
        InnerProduct(): [-50, 25, -16, 0],
        Subspaces(2): [5, 10, 3 + 5, 5],
        Subspaces(4): [3 + 4, 6 + 8, 3 + 5, 3 + 4],
        Chebyshev(): [4, 8, 5, 4],
        Manhattan(): [7, 14, 8, 7],
    }
    for metric, distance in expected.items():
        near = search(query, bank, 4, metric=metric)
        order = np.argsort(np.float32(distance), kind="stable")
        np.testing.assert_array_equal(near.index[0], order, str(metric))
        np.testing.assert_allclose(near.distance[0], np.array(distance)[order], rtol=1e-6, atol=1e-6)
    zero = search(0 * query, bank, 4, metric=Cosine())
    np.testing.assert_array_equal(zero.distance, np.ones((1, 4)))
    np.testing.assert_array_equal(zero.index, [[0, 1, 2, 3]])


def test_one_subspace_is_the_euclidean_distance():
    query, bank = sample("gaussian", 60, FEW)
    one, other = search(query, bank, K, metric=Subspaces(1)), search(query, bank, K)
    np.testing.assert_array_equal(one.index, other.index)
    np.testing.assert_allclose(one.distance, other.distance, rtol=1e-6)


def test_pieces_merge_to_the_whole_where_roots_meet():
    """The squares 1 and 1 + 2^-23 have the same root: the lower row is the nearer of the two."""
    bank = jnp.array([[1.0, 0.000347], [1.0, 0.0], [9.0, 9.0]])
    query = jnp.zeros((1, 2))
    squares = search(query, bank, 2, metric=Euclidean(squared=True)).distance
    whole = search(query, bank, 2)
    assert squares[0, 0] < squares[0, 1], "else this tests nothing"
    assert whole.distance[0, 0] == whole.distance[0, 1], "else this tests nothing"
    first, second = search(query, bank[:1], 1), search(query, bank[1:2], 1)
    merged = neighbors.merge(first, second._replace(index=second.index + 1), 2)
    np.testing.assert_array_equal(whole.index, merged.index)


@distances
def test_classifiers_attacks_and_certificates_take_it_or_refuse_it(metric):
    """k-NN by it votes as float64 does, its soft votes at temperature 0 are these votes, an attack
    that follows them fools it, and certificates, which are of the Euclidean distance, refuse others."""
    plain, x, y = digits()
    count = getattr(metric, "count", 1)
    keep = slice(64 // count * count)
    model = classifiers.knn(lambda x: flat(x)[:, keep], plain.images, plain.labels, k=3, metric=metric)
    assert model.metric == metric
    every = brute(metric, flat(x)[:, keep], flat(plain.images)[:, keep])[0]
    order = np.argsort(every, 1, kind="stable")[:, :3]
    votes = np.eye(10, dtype=int)[np.asarray(plain.labels)[order]].sum(1)
    clear = np.diff(np.sort(every, 1)[:, 2:4])[:, 0] > 1e-5  # else rounding may decide
    np.testing.assert_array_equal(model.votes(x)[clear], votes[clear])
    soft = model.soft_votes(x, model.references(x), 0.0)
    np.testing.assert_allclose(soft[clear], votes[clear], atol=1e-5)
    found = attacks.minimum_norm(jax.random.key(0), model, x[:4], y[:4], steps=30, starts=1)
    assert found.success.all()
    assert not model.right(found.image, y[:4]).any()
    if metric == Euclidean():
        certificates.margin(model, x[:4], y[:4], lipschitz=1.0)
    else:
        with pytest.raises(ValueError, match="certificates are of Euclidean distances"):
            certificates.margin(model, x[:4], y[:4], lipschitz=1.0)


def test_one_that_may_be_negative_is_refused_where_distances_are_squared():
    plain, _, _ = digits()
    with pytest.raises(ValueError, match="may be negative"):
        classifiers.knn(flat, plain.images, plain.labels, metric=InnerProduct())


@dataclass(frozen=True)
class Summed:
    """Of all pairs at once, which is no metric."""

    def distance(self, query, rows):
        return jnp.sum(jnp.abs(query - rows))


@dataclass(frozen=True)
class Unhashable:
    weights: list = field(default_factory=list)

    def distance(self, query, rows):
        return jnp.sum(query - rows, -1)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("l3", "metric='l3': use 'l2'"),
        (3, "metric=3 has no distance"),
        (Euclidean, "has no distance.*give a value"),
        (Unhashable(), "Unhashable cannot be hashed"),
        (Summed(), r"Summed.distance of points .* is of shape \(\)"),
        (Subspaces(2), "5 dimensions are no multiple of 2 subspaces"),
        (Subspaces(4), "5 dimensions are no multiple of 4 subspaces"),
    ],
)
def test_what_is_no_metric_is_refused(metric, message):
    unchecked = inspect.unwrap(neighbors.search)  # by jaxtyping, whose error would come first
    with pytest.raises(ValueError, match=message):
        unchecked(jnp.zeros((3, 5)), jnp.zeros((4, 5)), 1, metric=metric)


def test_there_is_no_part_of_a_subspace():
    with pytest.raises(ValueError, match="count=0"):
        Subspaces(0)
