"""Each metric against float64 brute force, and the bounds that make the search exact."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from knn_jax import neighbors
from knn_jax.neighbors import Cosine, Euclidean, InnerProduct, Subspaces, direct, metrics, tiles

pytestmark = pytest.mark.usefixtures("quick")

METRICS = ["l2", "squared_l2", "cosine", "inner_product", Subspaces(2), Subspaces(3)]
APART = ["l2", "cosine", "inner_product", Subspaces(2)]  # that differ in more than what is returned
KINDS = ["gaussian", "clustered", "offset", "duplicated", "grid", "sorted", "low rank"]
COARSE = ["bfloat16", "tensorfloat32"]
FEW, MANY = 8, 20  # queries
K = 5

search = jax.jit(neighbors.search, static_argnames=("k", "metric", "coarse"))  # compiled for many data


def sample(kind, rows=600, queries=MANY, dim=30):
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
    if metric in ("l2", "squared_l2"):
        power = 1 if metric == "l2" else 2
        distance = np.linalg.norm(apart, axis=-1) ** power
        return distance, power * rounding * distance
    if metric == "inner_product":
        return -query @ bank.T, rounding * norms
    if metric == "cosine":
        cosine = np.divide(query @ bank.T, norms, where=norms > 0, out=np.zeros(norms.shape))
        return 1 - cosine, np.full(norms.shape, rounding)
    parts = apart.reshape(*apart.shape[:2], metric.count, -1)
    distance = np.linalg.norm(parts, axis=-1).sum(-1)
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
    if metric != "l2":  # rows are ranked by the square, which tells more of them apart
        tied = (before == after) & ~missing[:, 1:]
        assert (np.diff(index)[tied] > 0).all(), "lower row first"


def exact_ties(metric, kind):
    """Whether what is equally far is so in floating point too, in whatever order it is summed."""
    return kind == "duplicated" or (kind == "grid" and metric not in ("cosine", Subspaces(3)))


def check_same(near, other, metric, kind, query, bank):
    """One answer but for rounding, which differs between programs and may swap what is all but tied."""
    check(near, metric, query, bank, K)
    rows = np.asarray(near.index)
    tolerance = np.take_along_axis(brute(metric, query, bank)[1], rows, 1)
    assert (np.abs(np.asarray(near.distance) - np.asarray(other.distance)) <= 2 * tolerance).all(), kind
    if kind == "gaussian" or exact_ties(metric, kind):
        np.testing.assert_array_equal(near.index, other.index, kind)


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_agrees_with_float64_brute_force(metric):
    for kind in KINDS:
        query, bank = sample(kind)
        near = search(query, bank, K, metric=metric)
        check(near, metric, query, bank, K)
        if exact_ties(metric, kind):
            order = np.argsort(np.float32(brute(metric, query, bank)[0]), 1, kind="stable")
            np.testing.assert_array_equal(near.index, order[:, :K], kind)


@pytest.mark.parametrize(
    ("metric", "dim", "rows", "k", "queries"),
    [
        ("l2", 1, 300, 1, FEW),
        ("cosine", 1, 300, 5, FEW),
        ("inner_product", 2, 2500, 800, FEW),
        (Subspaces(2), 2, 1000, 1, FEW),
        (Subspaces(3), 3, 60, 60, MANY),
        ("cosine", 30, 50, 50, FEW),
        ("inner_product", 30, 50, 50, FEW),
        ("cosine", 128, 1500, 75, MANY),
        ("l2", 784, 300, 5, FEW),
        (Subspaces(2), 4096, 120, 5, FEW),
        ("cosine", 4096, 120, 5, FEW),
    ],
    ids=str,
)
def test_agrees_whatever_the_size(metric, dim, rows, k, queries):
    for kind in ("gaussian", "offset", "duplicated"):
        query, bank = sample(kind, rows, queries, dim)
        check(search(query, bank, k, metric=metric), metric, query, bank, k)


@pytest.mark.parametrize("metric", APART[1:], ids=str)  # test_neighbors has l2
def test_neither_tiles_nor_the_batch_change_the_answer(monkeypatch, metric):
    tiled = jax.jit(lambda query, bank: neighbors.search(query, bank, K, metric=metric))
    for kind in KINDS:
        query, bank = sample(kind)
        whole = jax.tree.map(lambda leaf: leaf[:FEW], search(query, bank, K, metric=metric))
        few = search(query[:FEW], bank, K, metric=metric)
        with (
            monkeypatch.context() as patch
        ):  # only where `tiled` is traced: `search` is kept for others
            patch.setattr(tiles, "row_tile", lambda rows, dim, whole: min(rows, 128))
            patch.setattr(tiles, "SCORES", 500)
            patch.setattr(tiles, "GATHERED", 3000)
            in_tiles = tiled(query[:FEW], bank)
        for near in (few, in_tiles):
            check_same(near, whole, metric, kind, query[:FEW], bank)


@pytest.mark.parametrize("coarse", COARSE)
@pytest.mark.parametrize("metric", APART, ids=str)
def test_a_coarse_matmul_gives_the_same_answer(metric, coarse):
    for kind in KINDS:
        query, bank = sample(kind, queries=FEW)
        near = search(query, bank, K, metric=metric, coarse=coarse)
        check_same(near, search(query, bank, K, metric=metric), metric, kind, query, bank)


@pytest.mark.parametrize("coarse", [None, "bfloat16"])
@pytest.mark.parametrize("metric", APART, ids=str)
def test_the_unit_of_the_data_changes_nothing(metric, coarse):
    """Powers of two scale without rounding, and the squares of these numbers are all in range."""
    degree = {"cosine": 0, "inner_product": 2}.get(metric, 1)
    for kind in ("gaussian", "offset"):
        query, bank = sample(kind, queries=FEW)
        exact = search(query, bank, K, metric=metric)
        for scale in (2.0**-50, 2.0**50):
            near = search(query * scale, bank * scale, K, metric=metric, coarse=coarse)
            near = near._replace(distance=near.distance / scale**degree)
            check_same(near, exact, metric, kind, query, bank)


@pytest.mark.parametrize("metric", APART, ids=str)
def test_only_and_without_with_each_metric(metric):
    labels = np.arange(600) % 4
    chosen = np.arange(FEW) % 5  # no row has the last of the labels
    for kind in ("gaussian", "sorted", "duplicated"):
        query, bank = sample(kind, queries=FEW)
        for how, eligible in (
            ("only", labels == chosen[:, None]),
            ("without", labels != chosen[:, None]),
        ):
            near = search(
                query, bank, K, metric=metric, labels=jnp.asarray(labels), **{how: jnp.asarray(chosen)}
            )
            check(near, metric, query, bank, K, eligible)


def stored(kind, dtype):
    query, bank = sample(kind, queries=FEW)
    if dtype == jnp.uint8:
        return jnp.round(query * 40 + 100), jnp.clip(jnp.round(bank * 40 + 100), 0, 255).astype(dtype)
    return query, bank.astype(dtype)


@pytest.mark.parametrize(
    ("metric", "dtype"),
    [(metric, jnp.uint8) for metric in APART] + [("l2", jnp.float16), ("cosine", jnp.bfloat16)],
    ids=str,
)
def test_banks_of_bytes_and_halves_are_searched_as_stored(metric, dtype):
    for kind in ("gaussian", "offset", "duplicated"):
        query, bank = stored(kind, dtype)
        near = search(query, bank, K, metric=metric)
        wide = bank.astype(jnp.float32)
        check(near, metric, query, wide, K)
        exact = search(query, wide, K, metric=metric)
        np.testing.assert_array_equal(near.index, exact.index, kind)
        np.testing.assert_array_equal(near.distance, exact.distance, kind)


def test_bytes_may_search_bytes():
    images = sample("gaussian", 60, FEW)
    query, bank = (jnp.clip(jnp.round(a * 40 + 100), 0, 255).astype(jnp.uint8) for a in images)
    check(search(query, bank, K), "l2", query, bank, K)


def nasty(kind, dim):
    """(query, bank): what may be hard to bound."""
    rng = np.random.default_rng(1)
    if kind in KINDS:
        query, bank = (np.asarray(a, np.float64) for a in sample(kind, 300, dim=dim))
    else:
        bank, query = rng.normal(size=(300, dim)), rng.normal(size=(MANY, dim))
    if kind == "zeros":
        bank[::3], query[::3] = 0, 0
    if kind == "the rows themselves":
        query = bank[:MANY] = bank[:MANY] + 30
    if kind == "of all sizes":
        bank = bank * 10.0 ** rng.uniform(-6, 6, size=(300, 1))
        query = query * 10.0 ** rng.uniform(-6, 6, size=(MANY, 1))
    if kind == "one huge coordinate":
        bank[:, dim // 4], query[:, dim // 4] = 1e6, -1e6
    if kind == "halfway":  # between two bfloat16s, or two TF32s, or before the next: errors of one sign
        half = np.resize([1 + 2.0**-8, 1 + 2.0**-11, 1 + 2.0**-10 - 2.0**-23], 300)[:, None]
        bank = half * np.sign(bank[0]) * 2.0 ** rng.integers(-1, 2, size=bank.shape)
        query = half[:MANY] * np.sign(bank[0])
    if kind == "tiny":
        bank, query = bank * 1e-12, query * 1e-12
    if kind == "large":
        bank, query = bank * 1e12, query * 1e12
    if kind == "of equal coordinates":  # all roundings of a sum are of one sign; queries nearly on rows
        query = np.repeat(rng.uniform(1, 2, size=(MANY, 1)), dim, 1)
        bank = np.resize(query, bank.shape) * (1 + 2.0**-23 * rng.integers(0, 4, size=(300, 1)))
    if kind == "nearly of one direction":  # less apart than directions are rounded, and more
        common, width = rng.uniform(1, 2, size=dim), 10.0 ** rng.uniform(-7, -2, size=(300, 1))
        bank, query = common * (1 + width * bank), common * (1 + width[:MANY] * query)
    if kind in ("flushed", "flushed of both signs"):  # products of some coordinates, of others not
        bank, query = (np.abs(a) * 10.0 ** rng.uniform(-21, -17, size=a.shape) for a in (bank, query))
        query = query * (rng.choice([-1, 1], size=query.shape) if kind != "flushed" else 1)
    if kind == "tiny rows":
        bank = bank * 1e-22
    if kind in ("least rows", "greatest rows"):  # some of them on the query's way
        bank[::2] = np.resize(query, bank[::2].shape)
        bank = bank * (1e-37 if kind == "least rows" else 1e37)
    return jnp.asarray(query, jnp.float32), jnp.asarray(bank, jnp.float32)


NASTY = [
    "zeros",
    "the rows themselves",
    "of all sizes",
    "one huge coordinate",
    "halfway",
    "tiny",
    "large",
    "of equal coordinates",
    "nearly of one direction",
]
EXTREME = ["flushed", "flushed of both signs", "tiny rows", "least rows", "greatest rows"]


@functools.partial(jax.jit, static_argnums=(0, 1))
def bounds(metric, mode, query, bank, centre):
    """(floor, key) of all pairs, and whether the summaries are numbers."""
    summary = metric.summary(bank, centre)
    floor = metric.floor(metric.scores(query, bank, summary, centre, mode), query, centre, mode)
    pairs = query[:, None], bank[None]
    quick, key = metric.quick(*pairs), metric.distance(*pairs)
    key = jnp.where(metric.strays(quick, query.shape[1]), key, jnp.minimum(quick, key))
    return floor, key, jnp.isfinite(summary).all()


def as_matrix_units(monkeypatch):
    """Products of numbers cut short to TF32, which a CPU has not."""

    def cut(x):
        bits = lax.bitcast_convert_type(x, jnp.int32)
        return lax.bitcast_convert_type(bits & jnp.int32(-(2**13)), jnp.float32)

    def product(query, rows, mode, centre=None, scale=None):
        if mode == "tensorfloat32":
            rows, centre, scale = cut(metrics._shifted(rows, centre, scale)), None, None
            query, mode = cut(query), "centred"
        return exact(query, rows, mode, centre, scale)

    exact = metrics._product
    monkeypatch.setattr(metrics, "_product", product)


@pytest.mark.parametrize("mode", ["in_place", "centred", *COARSE])
@pytest.mark.parametrize(
    "metric", [Euclidean(), InnerProduct(), Cosine(), Subspaces(1), Subspaces(2), Subspaces(3)], ids=str
)
def test_no_row_is_nearer_than_the_floor_of_its_score(monkeypatch, metric, mode):
    """What proves that a search missed nothing; about whatever centre, of few dimensions, in one block
    and in three. Where summaries are no numbers nobody asks; an infinite floor is believed by nobody.
    """
    as_matrix_units(monkeypatch)
    above = {}
    few = 2 if metric == Cosine() else getattr(metric, "count", 1)
    for kind, dim in itertools.product(KINDS + NASTY + EXTREME, (few, 30, 2 * metrics.BLOCK + 32)):
        query, bank = nasty(kind, dim)
        mean = bank.mean(0, keepdims=True)
        for name, centre in (("mean", mean), ("zero", 0 * mean), ("far", 100 * mean + 1000)):
            floor, key, known = map(np.asarray, bounds(metric, mode, query, bank, centre))
            wrong = (floor > key) & (floor < np.inf) & known
            wrong = wrong if kind in EXTREME else ~(floor <= key)
            if wrong.any():
                above[kind, dim, name] = f"{np.mean(wrong):.0%}, by {np.max((floor - key)[wrong]):.1e}"
    assert not above


def alike(dim=2048):
    """Features as untrained networks have them: a large part in common, and hardly any of their own."""
    rng = np.random.default_rng(0)
    common = np.abs(rng.normal(size=dim))
    query, bank = (common * (1 + 1e-3 * rng.normal(size=(rows, dim))) for rows in (FEW, 600))
    return jnp.asarray(query, jnp.float32), jnp.asarray(bank, jnp.float32)


@pytest.mark.parametrize("metric", [Euclidean(), Cosine()], ids=str)
def test_the_floor_about_the_centre_tells_apart_what_is_alike(metric):
    """Where that of the rows in place falls short, it is within a twentieth of the distance."""
    query, bank = alike()
    centre = bank.mean(0, keepdims=True)
    floor, key, _ = map(np.asarray, bounds(metric, "in_place", query, bank, centre))
    assert (floor < 0.9 * key).all()
    floor, key, _ = map(np.asarray, bounds(metric, "centred", query, bank, centre))
    assert (floor > 0.95 * key).all()


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_rows_that_are_alike_are_not_all_measured(monkeypatch, metric):
    """The bound about the centre decides, and the answer is that of measuring all."""
    query, bank = alike()
    expected = jax.jit(functools.partial(neighbors.search, k=590, metric=metric))(query, bank)

    def none(query, *_, **__):
        return neighbors.Neighbors(
            jnp.full((len(query), 1, K), jnp.inf), jnp.zeros((len(query), 1, K), int)
        )

    monkeypatch.setattr(direct, "measure_all", none)
    near = jax.jit(functools.partial(neighbors.search, k=K, metric=metric))(query, bank)
    np.testing.assert_array_equal(near.index, expected.index[:, :K])
    np.testing.assert_allclose(near.distance, expected.distance[:, :K], rtol=1e-6)


@pytest.mark.parametrize("metric", METRICS, ids=str)
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


@pytest.mark.parametrize("metric", METRICS, ids=str)
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
    if metric != "inner_product":  # the nearest two are the row itself, twice
        np.testing.assert_allclose(to_query[0], np.zeros(6), atol=1e-6)


def test_one_subspace_is_the_euclidean_distance():
    query, bank = sample("gaussian", 60, FEW)
    one, other = search(query, bank, K, metric=Subspaces(1)), search(query, bank, K)
    np.testing.assert_array_equal(one.index, other.index)
    np.testing.assert_allclose(one.distance, other.distance, rtol=1e-6)


def test_distances_worked_by_hand():
    """(3, 4, 0, 0) and its double, the opposite, another direction, and zero."""
    query = jnp.array([[3.0, 4.0, 0.0, 0.0]])
    bank = jnp.array(
        [[6.0, 8.0, 0.0, 0.0], [-3.0, -4.0, 0.0, 0.0], [0.0, 4.0, 0.0, 5.0], [0.0, 0.0, 0.0, 0.0]]
    )
    expected = {
        "l2": [5, 10, 34**0.5, 5],
        "squared_l2": [25, 100, 34, 25],
        "cosine": [0, 2, 1 - 16 / (5 * 41**0.5), 1],
        "inner_product": [-50, 25, -16, 0],
        Subspaces(2): [5, 10, 3 + 5, 5],
        Subspaces(4): [3 + 4, 6 + 8, 3 + 5, 3 + 4],
    }
    for metric, distance in expected.items():
        near = search(query, bank, 4, metric=metric)
        order = np.argsort(np.float32(distance), kind="stable")
        np.testing.assert_array_equal(near.index[0], order, str(metric))
        np.testing.assert_allclose(near.distance[0], np.array(distance)[order], rtol=1e-6, atol=1e-6)
    zero = search(0 * query, bank, 4, metric="cosine")
    np.testing.assert_array_equal(zero.distance, np.ones((1, 4)))
    np.testing.assert_array_equal(zero.index, [[0, 1, 2, 3]])


def test_pieces_merge_to_the_whole_where_roots_meet():
    """The squares 1 and 1 + 2^-23 have the same root: the lower row is the nearer of the two."""
    bank = jnp.array([[1.0, 0.000347], [1.0, 0.0], [9.0, 9.0]])
    query = jnp.zeros((1, 2))
    squares = search(query, bank, 2, metric="squared_l2").distance
    whole = search(query, bank, 2)
    assert squares[0, 0] < squares[0, 1], "else this tests nothing"
    assert whole.distance[0, 0] == whole.distance[0, 1], "else this tests nothing"
    first, second = search(query, bank[:1], 1), search(query, bank[1:2], 1)
    merged = neighbors.merge(first, second._replace(index=second.index + 1), 2)
    np.testing.assert_array_equal(whole.index, merged.index)


@pytest.mark.parametrize("count", [2, 4])
def test_subspaces_that_do_not_divide_the_dimensions_are_refused(count):
    unchecked = inspect.unwrap(neighbors.search)
    with pytest.raises(ValueError, match=f"5 dimensions are no multiple of {count} subspaces"):
        unchecked(jnp.zeros((3, 5)), jnp.zeros((4, 5)), 1, metric=Subspaces(count))
