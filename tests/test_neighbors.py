"""Search against float64 brute force, and its invariances."""

import inspect
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from banks import brute
from compiled import AS_USERS
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType, PartitionSpec
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from knn_jax import losses, neighbors
from knn_jax.neighbors import tiles

pytestmark = pytest.mark.usefixtures("quick")
KINDS = ["gaussian", "clustered", "offset", "duplicated", "grid", "needle"]
search = jax.jit(neighbors.search, static_argnames="k")  # compiled once for many data
as_users = jax.jit(neighbors.search, static_argnames="k", compiler_options=AS_USERS)


def test_outside_jit_a_search_is_compiled_once(monkeypatch):
    module = sys.modules["knn_jax.neighbors.search"]  # the function of the package has its name
    traced, own = [], module.search_part
    monkeypatch.setattr(module, "search_part", lambda *args: traced.append(1) or own(*args))
    bank = jnp.arange(30.0).reshape(10, 3)
    for shift in range(3):
        neighbors.search(bank[:2] + shift, bank, 2)
    assert len(traced) == 1


def sample(kind, rows=300, queries=9, dim=12):
    rng = np.random.default_rng(0)
    bank, query = rng.normal(size=(rows, dim)), rng.normal(size=(queries, dim))
    if kind == "clustered":
        centres = 50 * rng.normal(size=(5, dim))
        bank = bank * 0.1 + centres[rng.integers(5, size=rows)]
        query = query * 0.1 + centres[rng.integers(5, size=queries)]
    if kind == "offset":
        bank, query = bank + 1000, query + 1000
    if kind == "duplicated":
        bank = np.repeat(bank[: rows // 10], 10, 0)
    if kind == "grid":
        bank, query = rng.integers(0, 2, size=bank.shape), rng.integers(0, 2, size=query.shape)
    if kind == "needle":  # neighbours closer together than the matmul can tell apart
        side = 300 * (2 * rng.integers(0, 2, size=rows) - 1)
        bank, query = bank * 0.01 + side[:, None], query * 0.01 + 300
    return jnp.asarray(query, jnp.float32), jnp.asarray(bank, jnp.float32)


def small_tiles(monkeypatch, row_tile=64, scores=200, gathered=1000):
    monkeypatch.setattr(tiles, "row_tile", lambda rows, dim, whole: min(rows, row_tile))
    monkeypatch.setattr(tiles, "SCORES", scores)
    monkeypatch.setattr(tiles, "GATHERED", gathered)
    monkeypatch.setattr(tiles, "MEASURED", gathered)


def test_agrees_with_scikit_learn_on_the_digits():
    images = load_digits().data.astype(np.float32)
    query, bank = images[:20], images[20:400]
    near = search(jnp.asarray(query), jnp.asarray(bank), 5)
    oracle = NearestNeighbors(n_neighbors=5, algorithm="kd_tree").fit(bank)
    np.testing.assert_allclose(near.distance, oracle.kneighbors(query)[0], rtol=1e-6)


@pytest.mark.parametrize("part", [slice(0, 1), slice(3, 9)], ids=["one", "six"])
def test_the_size_of_the_batch_does_not_change_the_answer(part):
    for kind in KINDS:
        query, bank = sample(kind)
        near, whole = search(query[part], bank, 7), search(query, bank, 7)
        np.testing.assert_array_equal(near.index, whole.index[part], kind)


@pytest.mark.parametrize("shift", [-3.0, 1000.0])
def test_translating_query_and_bank_changes_nothing(shift):
    """Coordinates are multiples of 2^-8, so that the translation itself is exact."""
    query, bank = (jnp.round(a * 256) / 256 for a in sample("gaussian"))
    here = search(query, bank, 7)
    there = search(query + shift, bank + shift, 7)
    np.testing.assert_array_equal(there.index, here.index)
    np.testing.assert_array_equal(there.distance, here.distance)


def test_ties_go_to_the_lower_row():
    bank = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    near = search(jnp.zeros((1, 2)), bank, 4)
    np.testing.assert_array_equal(near.index, [[2, 4, 0, 1]])
    np.testing.assert_array_equal(near.distance, [[0, 0, 1, 1]])


@pytest.mark.parametrize("kind", ["gaussian", "grid", "needle"])
def test_only_searches_the_rows_of_one_label(kind):
    query, bank = sample(kind)
    labels, only = np.arange(300) % 4, np.arange(9) % 4
    near = search(query, bank, 5, labels=jnp.asarray(labels), only=jnp.asarray(only))
    distance, index = brute(query, bank, 5, labels == only[:, None])
    np.testing.assert_allclose(near.distance, distance, rtol=2e-6)
    np.testing.assert_array_equal(labels[near.index], np.broadcast_to(only[:, None], (9, 5)))
    if kind == "grid":
        np.testing.assert_array_equal(near.index, index)


def test_only_of_several_labels_is_each_of_them_alone():
    query, bank = sample("gaussian")
    labels = jnp.arange(300) % 4
    only = jnp.asarray(np.random.default_rng(1).integers(0, 4, (9, 3)))
    near = search(query, bank, 5, labels=labels, only=only)
    for group in range(3):
        alone = search(query, bank, 5, labels=labels, only=only[:, group])
        np.testing.assert_array_equal(near.index[:, group], alone.index)
        np.testing.assert_allclose(near.distance[:, group], alone.distance, rtol=1e-6)


def test_without_leaves_one_label_out():
    query, bank = sample("grid")
    labels, without = np.arange(300) % 4, np.arange(9) % 4
    near = search(query, bank, 5, labels=jnp.asarray(labels), without=jnp.asarray(without))
    distance, index = brute(query, bank, 5, labels != without[:, None])
    np.testing.assert_array_equal(near.index, index)
    np.testing.assert_allclose(near.distance, distance, rtol=1e-6)


def test_labels_that_number_the_rows_make_leave_one_out():
    bank = sample("gaussian")[1][:50]
    rows = jnp.arange(50)
    near = search(bank, bank, 3, labels=rows, without=rows)
    distance, index = brute(bank, bank, 3, ~np.eye(50, dtype=bool))
    np.testing.assert_array_equal(near.index, index)
    np.testing.assert_allclose(near.distance, distance, rtol=2e-6)


def test_fewer_eligible_rows_than_k_leave_inf_and_minus_one():
    bank = jnp.array([[0.0], [1.0], [2.0], [3.0]])
    labels = jnp.array([0, 0, 0, 1])
    query = jnp.array([[0.0], [3.0]])
    near = search(query, bank, 2, labels=labels, only=jnp.array([[1, 0], [2, 1]]))
    np.testing.assert_array_equal(near.index, [[[3, -1], [0, 1]], [[-1, -1], [3, -1]]])
    np.testing.assert_array_equal(
        near.distance, [[[3, np.inf], [0, 1]], [[np.inf, np.inf], [0, np.inf]]]
    )


def test_no_queries_get_an_empty_answer():
    near = neighbors.search(jnp.zeros((0, 3)), jnp.ones((4, 3)), 2)
    assert near.distance.shape == near.index.shape == (0, 2)


def test_jit_changes_nothing():
    query, bank = sample("needle")
    eager, jitted = neighbors.search(query, bank, 7), search(query, bank, 7)
    np.testing.assert_array_equal(jitted.index, eager.index)
    np.testing.assert_allclose(jitted.distance, eager.distance, rtol=1e-6)


def test_vmap_is_a_loop():
    mapped = jax.jit(jax.vmap(lambda query, bank: neighbors.search(query, bank, 7), (0, None)))
    for kind in KINDS:
        query, bank = sample(kind)
        whole = search(query, bank, 7)
        near = jax.tree.map(lambda leaf: leaf.reshape(9, -1), mapped(query.reshape(3, 3, -1), bank))
        np.testing.assert_array_equal(near.index, whole.index, kind)
        np.testing.assert_allclose(near.distance, whole.distance, rtol=1e-6)


def test_queries_sharded_over_devices_get_the_same_answer():
    query, bank = sample("needle", queries=8)
    mesh = jax.make_mesh((4,), ("device",), axis_types=(AxisType.Auto,))
    split, whole = PartitionSpec("device"), PartitionSpec()

    def local(query, bank):
        return neighbors.search(query, bank, 7)

    sharded = jax.shard_map(local, mesh=mesh, in_specs=(split, whole), out_specs=split)
    near, expected = jax.jit(sharded)(query, bank), search(query, bank, 7)
    assert len(near.index.sharding.device_set) == 4
    np.testing.assert_array_equal(near.index, expected.index)
    np.testing.assert_allclose(near.distance, expected.distance, rtol=1e-6)


def test_gradients_are_the_unit_vectors_between_query_and_row(monkeypatch):
    small_tiles(monkeypatch)
    query, bank = sample("gaussian", rows=60, queries=5, dim=3)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)), jnp.float32)

    def total(query, bank):
        return (weight * neighbors.search(query, bank, 4).distance).sum()

    to_query, to_bank = jax.jit(jax.grad(total, (0, 1)))(query, bank)
    distance, index = brute(query, bank, 4)
    apart = np.asarray(query, np.float64)[:, None] - np.asarray(bank, np.float64)[index]
    pull = np.asarray(weight)[..., None] * apart / distance[..., None]
    expected = np.zeros(bank.shape)
    np.add.at(expected, index, -pull)
    np.testing.assert_allclose(to_query, pull.sum(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(to_bank, expected, rtol=1e-4, atol=1e-5)


def test_a_query_on_a_row_has_gradient_zero():
    bank = jnp.array([[0.0, 0.0], [3.0, 4.0]])

    def nearest(query, bank):
        return neighbors.search(query, bank, 1).distance.sum()

    to_query, to_bank = jax.jit(jax.grad(nearest, (0, 1)))(bank[1:], bank)
    np.testing.assert_array_equal(to_query, np.zeros((1, 2)))
    np.testing.assert_array_equal(to_bank, np.zeros((2, 2)))


def test_a_missing_neighbour_has_gradient_zero():
    """The query lies on the last row, which must not stand in for the neighbour that is missing."""
    bank, labels = jnp.array([[0.0, 0.0], [3.0, 4.0]]), jnp.array([0, 1])

    def finite(query):
        near = neighbors.search(query, bank, 2, labels=labels, only=jnp.array([0]))
        return jnp.where(near.index < 0, 0.0, near.distance).sum()

    np.testing.assert_allclose(jax.jit(jax.grad(finite))(bank[1:]), [[0.6, 0.8]], rtol=1e-6)


def arrays(jaxpr):
    """The shapes of all arrays in a jaxpr and those inside it."""
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars if hasattr(v.aval, "shape"))
        for inner in jaxprs_in_params(equation.params):
            yield from arrays(inner)


@pytest.mark.parametrize("groups", [1, 4])
def test_scores_of_all_queries_and_rows_are_never_held_at_once(groups):
    queries, rows = 4096, 16384
    query, bank = jnp.zeros((queries, 2)), jnp.zeros((rows, 2))
    labels, only = jnp.zeros(rows, jnp.int32), jnp.zeros((queries, groups), jnp.int32)

    def nearest(query, bank):
        return neighbors.search(query, bank, 3, labels=labels, only=only)

    largest = max(math.prod(shape) for shape in arrays(jax.make_jaxpr(nearest)(query, bank).jaxpr))
    assert tiles.SCORES / 2 <= largest <= 2 * tiles.SCORES + queries * 50 < queries * rows


@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "gradient"])
def test_the_compiled_program_holds_one_tile(gradient):
    """Neither direct distances (a tile is 268 MB with the features) nor neighbours' rows pile up."""
    queries, rows, dim, k = 16384, 4096, 64, 32

    def nearest(query, bank):
        return neighbors.search(query, bank, k).distance.sum()

    shapes = (
        jax.ShapeDtypeStruct((queries, dim), jnp.float32),
        jax.ShapeDtypeStruct((rows, dim), jnp.float32),
    )
    function = jax.grad(nearest) if gradient else nearest
    program = jax.jit(function, compiler_options=AS_USERS).lower(*shapes).compile()
    held = program.memory_analysis().temp_size_in_bytes
    gathered = 4 * queries * k * dim
    assert held < gathered < 4 * queries * rows


@pytest.mark.parametrize("dtype", ["uint8", "float16"])  # XLA's CPU backend converts all of a bfloat16
def test_a_bank_of_halves_or_bytes_has_no_float32_copy(dtype):
    rows, dim = 400_000, 64
    query = jax.ShapeDtypeStruct((20, dim), jnp.float32)
    bank = jax.ShapeDtypeStruct((rows, dim), dtype)
    memory = as_users.lower(query, bank, k=3).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * rows * dim / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 5}, "k=5 neighbours asked of a bank of 4 rows"),
        ({"k": 0}, "k=0 neighbours asked of a bank of 4 rows"),
        ({"bank": jnp.zeros((0, 2))}, "the bank is empty"),
        ({"bank": jnp.zeros((4, 3))}, r"query \(3, 2\) and bank \(4, 3\)"),
        ({"labels": jnp.arange(4)}, "labels go with only= or without="),
        ({"only": jnp.arange(3)}, "labels go with only= or without="),
        ({"without": jnp.arange(3)}, "labels go with only= or without="),
        (
            {"labels": jnp.arange(4), "only": jnp.arange(3), "without": jnp.arange(3)},
            "only= and without= exclude each other",
        ),
        ({"labels": jnp.arange(3), "only": jnp.arange(3)}, r"labels of shape \(3,\): .* of 4 rows"),
        ({"labels": jnp.arange(4), "only": jnp.arange(2)}, r"only of shape \(2,\): .* of 3 queries"),
        ({"labels": jnp.arange(4), "without": jnp.arange(4)}, r"without of shape \(4,\)"),
        ({"coarse": "bf16"}, "coarse='bf16' is none of bfloat16, tensorfloat32"),
    ],
)
def test_what_cannot_be_answered_is_refused(arguments, message):
    unchecked = inspect.unwrap(neighbors.search)  # by jaxtyping, whose error would come first
    with pytest.raises(ValueError, match=message):
        unchecked(**{"query": jnp.zeros((3, 2)), "bank": jnp.zeros((4, 2)), "k": 1} | arguments)


def test_votes_count_the_labels():
    labels = jnp.array([[0, 2, 2], [1, 1, 1]])
    np.testing.assert_array_equal(neighbors.votes(labels, 4), [[1, 0, 2, 0], [0, 3, 0, 0]])


SQUARED = np.array([[[1.0, 9.0], [4.0, 16.0], [2.0, 3.0]], [[5.0, 7.0], [1.0, 2.0], [3.0, 9.0]]])
HARD = {1: [[1, 0, 0], [0, 1, 0]], 3: [[1, 0, 2], [0, 2, 1]], 6: [[2, 2, 2], [2, 2, 2]]}


@pytest.mark.parametrize("k", HARD)
@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-3])
def test_soft_votes_at_a_tiny_temperature_are_the_hard_votes(k, temperature):
    squared = jnp.asarray(SQUARED, jnp.float32)
    votes = neighbors.soft_votes(squared, k, temperature)
    np.testing.assert_allclose(votes, HARD[k], atol=1e-6)
    gradient = jax.grad(lambda s: neighbors.soft_votes(s, k, temperature)[:, 0].sum())(squared)
    assert np.isfinite(gradient).all()


def test_soft_votes_worked_by_hand():
    """k = 2 of squared distances 1, 3 | 5: r = 4; at temperature 1/2 the votes are sigmoid(d / 2)."""
    squared = jnp.array([[[1.0, 5.0], [3.0, 9.0]]])

    def sigmoid(z):
        return 1 / (1 + math.exp(-z))

    expected = [sigmoid(1.5) + sigmoid(-0.5), sigmoid(0.5) + sigmoid(-2.5)]
    np.testing.assert_allclose(neighbors.soft_votes(squared, 2, 0.5)[0], expected, rtol=1e-6)
    gradient = jax.grad(lambda s: neighbors.soft_votes(s, 2, 0.5)[0, 0])(squared)
    slope = [-sigmoid(z) * sigmoid(-z) / 2 for z in (1.5, -0.5)]
    np.testing.assert_allclose(gradient, [[slope, [0, 0]]], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("k", "classes", "taps"),
    [*((k, 2, taps) for k in (1, 2, 3, 5, 6) for taps in (1, 2, 3)), (1, 4, 1), (2, 4, 1), (3, 4, 1)],
)
def test_ranks_at_temperature_zero_say_when_the_hard_vote_is_lost(k, classes, taps):
    random = np.random.default_rng(k)
    squared = jnp.asarray(random.uniform(size=(taps, 300, classes, k)), jnp.float32)
    y = jnp.asarray(random.integers(classes, size=300), jnp.int32)
    lead = losses.margin(neighbors.ranks(tuple(squared), y, k, 0.0), y)
    lost = losses.margin(sum(neighbors.soft_votes(tap, k, 0.0) for tap in squared), y) <= 0
    np.testing.assert_array_equal(lead < 0, lost)
    assert 20 < lost.sum() < 300


def test_ranks_worked_by_hand():
    """k = 3, r = 2: class 0 keeps one vote once two rows of the others are nearer than its second.

    For the last two classes these are 1.5 and 2; for class 1, which is not y, of a second tap the row 1
    is nearer than the third of y and 3 than the second; together with the first it needs three.
    """
    squared = jnp.array([[[1.0, 5.0, 7.0], [2.0, 9.0, 11.0], [1.5, 8.0, 10.0]]])
    y = jnp.zeros(1, jnp.int32)
    hard = neighbors.ranks((squared,), y, 3, 0.0)
    np.testing.assert_allclose(hard, [[0, 1.5, 1.5]], rtol=1e-5)  # 5 - 2 in units of r
    soft = neighbors.ranks((squared,), y, 3, 0.5)
    one, other = (0.5 * math.log(math.exp(2 * first) + math.exp(-3)) for first in (-2.5, -2.75))
    np.testing.assert_allclose(soft, [[0, -one, -other]], rtol=1e-6)
    slope = jax.grad(lambda s: losses.margin(neighbors.ranks((s,), y, 3, 0.5), y).sum())(squared)
    assert (slope[0, 0, 1:] < 0).all()  # nearer rows of the class raise its lead
    assert (slope[0, 1:, 0] > 0).all()
    np.testing.assert_array_equal(slope[0, 0, 0], 0)  # the one that it may keep
    second = jnp.array([[[4.0, 6.0, 8.0], [1.0, 3.0, 20.0], [30.0, 31.0, 32.0]]])
    both = neighbors.ranks((squared, second), y, 3, 0.0)
    np.testing.assert_allclose(both[0, 1], 0.75, rtol=1e-5)  # gaps -2.5, -1.75 (r = 4) and -.75


@pytest.mark.parametrize("taps", [1, 2])
@pytest.mark.parametrize("temperature", [0.0, 1e-9, 1.0])
@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_ranks_of_classes_that_lack_rows_and_of_equal_rows_are_finite(k, temperature, taps):
    far = 1e30
    squared = jnp.array([[[0.0, 0.0, 0.0], [1.0, far, far]], [[2.0, 3.0, far], [far, far, far]]])
    y = jnp.array([0, 1])

    def lead(squared):
        return losses.margin(neighbors.ranks((squared,) * taps, y, k, temperature), y)

    assert np.isfinite(lead(squared)).all()
    assert np.isfinite(jax.grad(lambda s: lead(s).sum())(squared)).all()


@pytest.mark.parametrize("rows", [4, 7, 30])
def test_ranks_have_a_slope_where_classes_have_fewer_rows_than_half_of_the_votes(rows):
    """k = 15 of classes of as many rows each: no class may have half of the votes, and one must win."""
    rng = np.random.default_rng(0)
    bank = jnp.asarray(rng.normal(size=(3, rows, 5)), jnp.float32)
    query, y = jnp.asarray(rng.normal(size=(6, 5)), jnp.float32), jnp.arange(6) % 3

    def lead(query):
        squared = jnp.sum(jnp.square(query[:, None, None] - bank[None]), -1)
        missing = jnp.full((6, 3, max(0, 11 - rows)), 1e30)
        squared = jnp.concatenate([squared, missing], -1)
        return losses.margin(neighbors.ranks((squared,), y, min(15, 3 * rows), 0.1), y).sum()

    assert (jnp.abs(jax.grad(lead)(query)).max(1) > 1e-3).all()


@pytest.mark.parametrize("tile", [1, 3, 7, 100])
def test_tiles_of_a_function_are_the_function(tile):
    tree = {"a": jnp.arange(14.0).reshape(7, 2)}, jnp.arange(7)

    def function(tree, number):
        return {"sum": tree["a"].sum(1), "number": number * 2, "all": tree["a"][:, None] * 3}

    tiled = neighbors.in_tiles(function, tile)(*tree)
    jax.tree.map(np.testing.assert_array_equal, tiled, function(*tree))
