"""What holds of a search whichever way it takes: any sizes, any numbers, any order of magnitude."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import brute
from ways import way  # noqa: F401

from knn_jax import mesh, neighbors
from knn_jax.neighbors import Cosine, Euclidean, InnerProduct, Subspaces
from knn_jax.neighbors.search import check

pytestmark = pytest.mark.usefixtures("quick", "way")
METRICS = [Euclidean(), Euclidean(squared=True), Cosine(), InnerProduct(), Subspaces(2)]


def agrees(near, metric, query, bank, rtol=2e-5, atol=0.0):
    """The rows found are nearest, their distances true, and nobody else is nearer."""
    every = brute(neighbors.named(metric), query, bank)[0]
    k = near.index.shape[1]
    assert (np.asarray(near.index) >= 0).all()
    for row in np.asarray(near.index):
        assert len(set(row.tolist())) == k
    least = np.sort(every, 1)[:, :k]
    np.testing.assert_allclose(near.distance, least, rtol=rtol, atol=atol)
    found = np.take_along_axis(every, np.asarray(near.index), 1)
    np.testing.assert_allclose(found, least, rtol=rtol, atol=atol)


@pytest.mark.parametrize("seed", range(8))
def test_of_any_size(seed):
    """Rows 1 to 4,000, dimensions 1 to 1,500, k up to the rows."""
    rng = np.random.default_rng(seed)

    def draw(most):
        return int(np.exp(rng.uniform(0, np.log(most + 1))))

    rows, dim, queries = draw(4000), draw(1500), draw(20)
    k = rows if seed == 0 else draw(rows)
    metric = METRICS[seed % len(METRICS)]
    dim += dim % 2 if isinstance(metric, Subspaces) else 0
    query, bank = (rng.normal(size=(count, dim)).astype(np.float32) for count in (queries, rows))
    near = neighbors.search(jnp.asarray(query), jnp.asarray(bank), k, metric=metric)
    absolute = {InnerProduct(): 1e-5 * dim, Cosine(): 1e-6}.get(metric, 0.0)
    agrees(near, metric, query, bank, atol=absolute)


@pytest.mark.parametrize(("rows", "k"), [(56, 1), (103, 1), (66, 5), (113, 5), (264, 75), (300, 75)])
def test_of_small_banks_of_images(rows, k):
    rng = np.random.default_rng(0)
    query, bank = (rng.random((count, 784), np.float32) for count in (3, rows))
    agrees(neighbors.search(jnp.asarray(query), jnp.asarray(bank), k), "l2", query, bank)


ROWS, DIM = 260, 6
NOT = (0, 7, 64, 65, 259)  # rows that are not finite, some of the sample whose mean is the centre


def broken(metric):
    """Queries and a bank of finite numbers, and both with some that are not."""
    rng = np.random.default_rng(1)
    query, bank = (rng.normal(size=(count, DIM)).astype(np.float32) for count in (5, ROWS))
    bad_query, bad_bank = query.copy(), bank.copy()
    bad_query[1, 2], bad_query[3, :] = np.nan, np.inf
    bad_bank[NOT, [0, 1, 2, 3, 4]] = np.nan, np.inf, -np.inf, np.nan, np.inf
    return query, bank, bad_query, bad_bank


@pytest.mark.parametrize("metric", METRICS, ids=str)
@pytest.mark.parametrize("search", ["search", "stream", "shard"])
def test_what_is_not_finite_is_nobodys_neighbour_and_has_none(way, search, metric):  # noqa: F811
    if search != "search" and way == "small":
        pytest.skip("pieces and devices search by the same ways")
    query, bank, bad_query, bad_bank = broken(metric)
    left = np.setdiff1d(np.arange(ROWS), NOT)
    if search == "stream":
        near = neighbors.stream(jnp.asarray(bad_query), bad_bank, 4, rows=100, metric=metric)
    else:
        held = jnp.asarray(bad_bank)
        held = neighbors.shard(held, mesh.make(rows=4)) if search == "shard" else held
        near = neighbors.search(jnp.asarray(bad_query), held, 4, metric=metric)
    for number in (1, 3):
        np.testing.assert_array_equal(near.index[number], -1)
        np.testing.assert_array_equal(near.distance[number], np.inf)
    right = np.array([0, 2, 4])
    expected = neighbors.search(jnp.asarray(query[right]), jnp.asarray(bank[left]), 4, metric=metric)
    np.testing.assert_array_equal(near.index[right], left[np.asarray(expected.index)])
    np.testing.assert_allclose(near.distance[right], expected.distance, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_a_query_of_zeros_finds_no_row_that_is_not_finite(metric):
    bank = np.full((150, 2), np.inf, np.float32)
    bank[::2, 0], bank[100] = np.nan, 0.0
    near = neighbors.search(jnp.zeros((1, 2)), jnp.asarray(bank), 2, metric=metric)
    np.testing.assert_array_equal(near.index, [[100, -1]])


def test_a_bank_of_nothing_finite_has_no_neighbours():
    near = neighbors.search(jnp.ones((2, 3)), jnp.full((200, 3), jnp.nan), 2)
    np.testing.assert_array_equal(near.index, -1)


def test_gradients_pass_by_what_is_not_finite():
    _, _, query, bank = broken("l2")

    def total(query, bank):
        near = neighbors.search(query, bank, 3)
        return jnp.where(near.index < 0, 0.0, near.distance).sum()

    for gradient in jax.jit(jax.grad(total, (0, 1)))(jnp.asarray(query), jnp.asarray(bank)):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("metric", [Euclidean(), Cosine(), Subspaces(2)], ids=str)
def test_of_any_magnitude(metric):
    for scale in (1e-35, 1e-25, 1e-18, 1e15, 1e20, 1e37):
        rng = np.random.default_rng(2)
        query, bank = ((scale * rng.normal(size=(n, DIM))).astype(np.float32) for n in (5, 260))
        near = neighbors.search(jnp.asarray(query), jnp.asarray(bank), 4, metric=metric)
        agrees(near, metric, query, bank, atol=1e-6 if metric == Cosine() else 0.0)


@pytest.mark.parametrize("metric", [Euclidean(), Subspaces(2)], ids=str)
def test_of_all_magnitudes_at_once(metric):
    """A query at each, whose own are far nearer than any other's."""
    rng = np.random.default_rng(3)
    scales = np.array([1e-30, 1e-20, 1e-10, 1.0, 1e10, 1e20, 1e30])
    bank = (np.repeat(scales, 40)[:, None] * rng.normal(size=(280, DIM))).astype(np.float32)
    query = (scales[:, None] * rng.normal(size=(7, DIM))).astype(np.float32)
    near = neighbors.search(jnp.asarray(query), jnp.asarray(bank), 30, metric=metric)
    agrees(near, metric, query, bank)


@pytest.mark.parametrize("metric", [Euclidean(), Euclidean(squared=True), Subspaces(2)], ids=str)
def test_many_squares_that_underflow_beside_few_that_do_not(metric):
    """Each is lost in the sum, and so many of them are not."""
    numbers = np.finfo(np.float32)
    bank = np.full((3, 1000), 0.99 * numbers.tiny**0.5, np.float32)
    subspaces = isinstance(metric, Subspaces)  # roots lose more, and earlier
    least = 2.05 * numbers.tiny**0.5 / numbers.eps if subspaces else (numbers.tiny / numbers.eps) ** 0.5
    bank[:, 0] = 1.01 * least, 1e-10, 1e-6
    near = neighbors.search(jnp.zeros((1, 1000)), jnp.asarray(bank), 3, metric=metric)
    agrees(near, metric, np.zeros((1, 1000)), bank, rtol=8e-7 if subspaces else 2e-6)


def test_a_distance_that_the_type_cannot_hold_is_none():
    bank = jnp.array([[3e38], [-3e38], [1e38]])
    near = neighbors.search(jnp.array([[3e38]]), bank, 3)
    np.testing.assert_array_equal(near.index, [[0, 2, -1]])
    np.testing.assert_array_equal(jnp.isinf(near.distance), [[False, False, True]])


def test_float64_is_exact():
    with jax.enable_x64(True):
        rng = np.random.default_rng(4)
        query, bank = 1e9 + rng.normal(size=(4, DIM)), 1e9 + rng.normal(size=(260, DIM))
        near = neighbors.search(jnp.asarray(query), jnp.asarray(bank), 5)
        assert near.distance.dtype == jnp.float64
        agrees(near, "l2", query, bank, rtol=1e-14)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "float16", "bfloat16"])
def test_narrow_types_are_exact_as_stored(dtype):
    rng = np.random.default_rng(5)
    bank = jnp.asarray(100 * rng.random((260, DIM)), jnp.float32).astype(dtype)
    query = jnp.asarray(100 * rng.random((4, DIM)), jnp.float32).astype(dtype)
    near = neighbors.search(query, bank, 5)
    agrees(near, "l2", query.astype(jnp.float32), bank.astype(jnp.float32))


@pytest.mark.parametrize("large", [np.int64(2**32), np.int32(2**24 + 1), np.int64(-(2**40))])
@pytest.mark.parametrize("given", ["search", "stream"])
def test_integers_that_do_not_fit_are_refused(large, given):
    bank = np.zeros((3, 1), large.dtype)
    bank[1] = large
    with pytest.raises(ValueError, match=f"bank is {large.dtype}.*{abs(int(large))} is above 16777216"):
        getattr(neighbors, given)(jnp.zeros((1, 1)), bank, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("given", ["search", "stream"])
def test_numpy_float64_makes_no_room_for_integers_where_x64_is_off(dtype, given):
    bank = np.array([[2**32], [5]])
    with pytest.raises(ValueError, match="distances are float32: 4294967296 is above 16777216"):
        getattr(neighbors, given)(np.zeros((1, 1), dtype), bank, 1)


def test_integers_that_jax_would_wrap_are_refused():
    query, bank, wide = jnp.zeros((1, 1)), np.zeros((2, 1), np.float32), np.array([2**32, 1])
    for given in ((wide, wide[1:], None), (wide % 3, None, wide[:1])):
        with pytest.raises(ValueError, match="4294967296 is held by JAX as int32"):
            check(query, bank, 1, neighbors.Euclidean(), *given)
    for given in ((wide[:, None],), (bank, None)):
        with pytest.raises(ValueError, match="4294967296 is held by JAX as int32"):
            neighbors.shard(given[0], mesh.make(rows=2), *(wide for _ in given[1:]))


def test_labels_of_a_bank_over_devices_are_one_for_each_row():
    bank = neighbors.shard(np.zeros((5, 1), np.float32), mesh.make(rows=2))
    with pytest.raises(ValueError, match="one for each of 5 rows"):
        neighbors.search(jnp.zeros((1, 1)), bank, 1, labels=jnp.arange(3), only=jnp.array([2]))


def test_what_is_no_point_is_refused():
    with pytest.raises(ValueError, match="no dimension"):
        neighbors.search(jnp.zeros((1, 0)), jnp.zeros((3, 0)), 1)
    with pytest.raises(ValueError, match="complex64"):
        neighbors.search(jnp.zeros((1, 1)), jnp.array([[1j], [0.5]]), 1)


def test_wide_integers_are_taken_where_they_fit_and_refused_where_nobody_can_see():
    bank = np.arange(5)[:, None] * 4
    np.testing.assert_array_equal(neighbors.search(jnp.array([[9.0]]), bank, 1).index, [[2]])
    with pytest.raises(ValueError, match="in a jit"):
        jax.jit(lambda bank: neighbors.search(jnp.zeros((1, 1)), bank, 1))(jnp.asarray(bank))


class Long:
    """As much of an array as is looked at before it is refused."""

    shape, dtype, ndim = (2**31, 4), np.dtype(np.float32), 2

    def __len__(self):
        return self.shape[0]


@pytest.mark.parametrize("given", ["search", "stream", "shard"])
def test_more_rows_than_indices_are_refused(given):
    function = {
        "search": functools.partial(check, jnp.zeros((1, 4)), Long(), 1, neighbors.Euclidean(), None),
        "stream": functools.partial(check, jnp.zeros((1, 4)), Long(), 1, neighbors.Euclidean(), None),
        "shard": functools.partial(neighbors.sharded.check_rows, 2**31),
    }[given]
    with pytest.raises(ValueError, match="2147483648 rows"):
        function() if given == "shard" else function(None, None)


@pytest.mark.parametrize("metric", [Euclidean(), Subspaces(2)], ids=str)
@pytest.mark.parametrize("kind", ["below", "both signs", "none"])
def test_products_that_overflow_exclude_nobody(kind, metric):
    """Scores are -inf, inf or no numbers, where the distances are numbers."""
    rng = np.random.default_rng(0)
    bank = -rng.uniform(1, 2, (300, 8)).astype(np.float32) * np.float32(1e5)
    query = np.zeros((4, 8), np.float32)
    query[:, 0] = 1e38
    if kind == "both signs":
        bank[:5] *= -1
    if kind == "none":
        query[:, 1], bank[:, 1], bank[:, 2:] = query[:, 0], -bank[:, 0], 0
    near = neighbors.search(jnp.asarray(query), jnp.asarray(bank), 10, metric=metric)
    assert np.isfinite(near.distance).all()
    assert all(len(set(row)) == 10 and min(row) >= 0 for row in np.asarray(near.index).tolist())
