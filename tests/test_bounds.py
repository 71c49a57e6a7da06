"""The bounds that make the search exact, and the ways that go by them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from measured import APART, KINDS, check, check_same, sample
from ways import forced  # noqa: F401

from knn_jax import neighbors
from knn_jax.neighbors import (
    Chebyshev,
    Cosine,
    Euclidean,
    InnerProduct,
    Subspaces,
    direct,
    products,
    tiles,
)
from knn_jax.neighbors.precision import BLOCK

pytestmark = pytest.mark.usefixtures("quick")

COARSE = ["bfloat16", "tensorfloat32"]
FEW, MANY = 8, 20  # queries
K = 5

search = jax.jit(neighbors.search, static_argnames=("k", "metric", "coarse"))  # compiled for many data


@pytest.mark.parametrize(
    ("way", "metric", "dim", "rows", "k", "queries"),
    [
        ("small", Cosine(), 1, 300, 5, FEW),
        ("small", InnerProduct(), 2, 2500, 800, FEW),
        ("large", Subspaces(2), 2, 1000, 1, FEW),
        ("large", Subspaces(3), 3, 60, 60, MANY),
        ("large", InnerProduct(), 30, 50, 50, FEW),
        ("small", Cosine(), 128, 1500, 75, MANY),
        ("large", Euclidean(), 784, 300, 5, FEW),
        ("small", Subspaces(2), 4096, 120, 5, FEW),
        ("large", Cosine(), 4096, 120, 5, FEW),
    ],
    ids=str,
)
def test_agrees_whatever_the_size(forced, way, metric, dim, rows, k, queries):  # noqa: F811
    forced(way)
    for kind in ("gaussian", "offset", "duplicated"):
        query, bank = sample(kind, rows, queries, dim)
        check(search(query, bank, k, metric=metric), metric, query, bank, k)


SMALL_TILES = {  # rows and scores held at once, numbers gathered and measured
    "direct": (600, 500, 3000),
    "small": (600, 500, 3000),
    "rows": (128, 2**20, 2**25),
    "scores": (600, 1200, 2**25),
    "one query": (4096, 1, 1),
    "all small": (128, 500, 3000),
}


@pytest.mark.parametrize("sizes", SMALL_TILES)
@pytest.mark.parametrize("metric", APART, ids=str)
def test_neither_tiles_nor_the_batch_change_the_answer(monkeypatch, forced, metric, sizes):  # noqa: F811
    if metric != Euclidean() and sizes not in ("direct", "small", "all small"):
        pytest.skip("the tiles are of all metrics")
    forced(sizes if sizes in ("direct", "small") else "large")
    whole = {kind: search(*sample(kind), K, metric=metric) for kind in KINDS}
    row_tile, scores, gathered = SMALL_TILES[sizes]
    monkeypatch.setattr(tiles, "row_tile", lambda rows, dim, whole: min(rows, row_tile))
    monkeypatch.setattr(tiles, "SCORES", scores)
    monkeypatch.setattr(tiles, "GATHERED", gathered)
    monkeypatch.setattr(tiles, "MEASURED", gathered)
    for kind in KINDS:
        query, bank = sample(kind, queries=MANY)
        near = search(query[:FEW], bank, K, metric=metric)  # another batch, hence traced anew
        expected = jax.tree.map(lambda leaf: leaf[:FEW], whole[kind])
        check_same(near, expected, metric, kind, query[:FEW], bank)


@pytest.mark.parametrize("sizes", ["direct", "small", "all small"])
def test_the_tiles_do_not_change_a_restricted_search(monkeypatch, forced, sizes):  # noqa: F811
    forced(sizes if sizes in ("direct", "small") else "large")
    query, bank = sample("grid", queries=5)
    labels = jnp.arange(600) % 4
    only = jnp.array([[0, 1, 2], [3, 2, 1], [1, 1, 1], [2, 0, 3], [3, 3, 0]])
    whole = search(query, bank, 4, labels=labels, only=only)
    row_tile, scores, gathered = SMALL_TILES[sizes]
    monkeypatch.setattr(tiles, "row_tile", lambda rows, dim, whole: min(rows, row_tile))
    monkeypatch.setattr(tiles, "SCORES", scores)
    monkeypatch.setattr(tiles, "GATHERED", gathered)
    monkeypatch.setattr(tiles, "MEASURED", gathered)
    tiled = jax.jit(lambda bank: neighbors.search(query, bank, 4, labels=labels, only=only))(bank)
    np.testing.assert_array_equal(tiled.index, whole.index)


@pytest.mark.parametrize(("coarse", "way"), [("bfloat16", "tiled"), ("tensorfloat32", "small")])
@pytest.mark.parametrize("metric", APART, ids=str)
def test_a_coarse_matmul_gives_the_same_answer(forced, metric, coarse, way):  # noqa: F811
    forced(way)
    for kind in KINDS:
        query, bank = sample(kind, queries=FEW)
        near = search(query, bank, K, metric=metric, coarse=coarse)
        check(near, metric, query, bank, K)


@pytest.mark.parametrize(("coarse", "way"), [(None, "small"), ("bfloat16", "large")])
@pytest.mark.parametrize("metric", APART, ids=str)
def test_the_unit_of_the_data_changes_nothing(forced, metric, coarse, way):  # noqa: F811
    """Powers of two scale without rounding, and the squares of these numbers are all in range."""
    forced(way)
    degree = {Cosine(): 0, InnerProduct(): 2}.get(metric, 1)
    for kind in ("gaussian", "offset"):
        query, bank = sample(kind, queries=FEW)
        exact = search(query, bank, K, metric=metric, coarse=coarse)
        for scale in (2.0**-50, 2.0**50):
            near = search(query * scale, bank * scale, K, metric=metric, coarse=coarse)
            near = near._replace(distance=near.distance / scale**degree)
            check_same(near, exact, metric, kind, query, bank)


def stored(kind, dtype):
    query, bank = sample(kind, queries=FEW)
    if dtype == jnp.uint8:
        return jnp.round(query * 40 + 100), jnp.clip(jnp.round(bank * 40 + 100), 0, 255).astype(dtype)
    return query, bank.astype(dtype)


@pytest.mark.parametrize(
    ("way", "metric", "dtype"),
    [
        ("direct", Euclidean(), jnp.uint8),
        ("direct", Chebyshev(), jnp.uint8),
        ("small", Euclidean(), jnp.uint8),
        ("tiled", Cosine(), jnp.uint8),
        ("small", InnerProduct(), jnp.uint8),
        ("tiled", Subspaces(2), jnp.uint8),
        ("tiled", Euclidean(), jnp.float16),
        ("small", Cosine(), jnp.bfloat16),
    ],
    ids=str,
)
def test_banks_of_bytes_and_halves_are_searched_as_stored(forced, way, metric, dtype):  # noqa: F811
    forced(way)
    for kind in ("gaussian", "offset", "duplicated"):
        query, bank = stored(kind, dtype)
        near = search(query, bank, K, metric=metric)
        wide = bank.astype(jnp.float32)
        check(near, metric, query, wide, K)
        if way == "direct":  # of the others the programs may round otherwise
            exact = search(query, wide, K, metric=metric)
            np.testing.assert_array_equal(near.index, exact.index, kind)
            np.testing.assert_array_equal(near.distance, exact.distance, kind)


def test_bytes_may_search_bytes():
    images = sample("gaussian", 60, FEW)
    query, bank = (jnp.clip(jnp.round(a * 40 + 100), 0, 255).astype(jnp.uint8) for a in images)
    check(search(query, bank, K), Euclidean(), query, bank, K)


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
            rows, centre, scale = cut(products.shifted(rows, centre, scale)), None, None
            query, mode = cut(query), "centred"
        return exact(query, rows, mode, centre, scale)

    exact = products.product
    monkeypatch.setattr(products, "product", product)


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
    for kind, dim in itertools.product(KINDS + NASTY + EXTREME, (few, 30, 2 * BLOCK + 32)):
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


@pytest.mark.parametrize("metric", [Euclidean(), Cosine()], ids=str)
def test_rows_that_are_alike_are_not_all_measured(monkeypatch, forced, metric):  # noqa: F811
    """The bound about the centre decides, and the answer is that of measuring all."""
    forced("large")
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
