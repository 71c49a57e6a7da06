"""A bank over several devices gives the answer of one device, and never lies on one as a whole."""

import dataclasses
import functools
import inspect
import math
import re

import banks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import victims
from banks import brute, same
from compiled import AS_USERS

from knn_jax import attacks, certificates, classifiers, mesh, neighbors
from knn_jax.neighbors import Cosine, Euclidean, InnerProduct, Subspaces

pytestmark = pytest.mark.usefixtures("quick")
MESHES = [1, 2, 4]  # parts of the rows; the queries are in 4, 2, 1
METRICS = [Euclidean(), Euclidean(squared=True), Cosine(), InnerProduct(), Subspaces(2)]
METRICS_ON = [(1, Euclidean()), (4, Euclidean()), *((2, metric) for metric in METRICS)]
ROWS, QUERIES, DIM, K, CLASSES = 1003, 13, 12, 7, 4

search = jax.jit(neighbors.search, static_argnames=("k", "metric"))
as_users = jax.jit(neighbors.search, static_argnames=("k", "metric"), compiler_options=AS_USERS)


@functools.cache
def made(parts):
    return mesh.make(rows=parts)


def sample(kind, rows=ROWS, queries=QUERIES):
    return banks.sample(kind, rows, queries)


def test_a_mesh_is_of_all_devices():
    assert dict(mesh.make().shape) == {"rows": 4, "queries": 1}
    assert dict(mesh.make(rows=1).shape) == {"rows": 1, "queries": 4}
    assert (
        dict(mesh.make(rows=2).shape) == dict(mesh.make(queries=2).shape) == {"rows": 2, "queries": 2}
    )
    assert list(mesh.make(rows=2, queries=2).devices.flat) == jax.devices()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"rows": 3}, "a mesh of 3 x 1 devices: there are 4"),
        ({"rows": 8}, "a mesh of 8 x 0 devices: there are 4"),
        ({"queries": 3}, "a mesh of 1 x 3 devices: there are 4"),
        ({"queries": 8}, "a mesh of 0 x 8 devices: there are 4"),
        ({"rows": 2, "queries": 1}, "a mesh of 2 x 1 devices: there are 4"),
        ({"rows": 4, "queries": 4}, "a mesh of 4 x 4 devices: there are 4"),
        ({"rows": -2}, "a mesh of -2 x .* devices: there are 4"),
    ],
    ids=str,
)
def test_other_meshes_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        mesh.make(**shape)


@pytest.mark.parametrize("rows", [1003, 8, 5, 1])
@pytest.mark.parametrize("parts", MESHES)
def test_each_device_holds_its_part(parts, rows, tmp_path):
    """Of a memory-mapped file too."""
    bank = sample("gaussian", rows)[1]
    np.save(tmp_path / "bank.npy", bank)
    labels = np.arange(rows, dtype=np.int32) % CLASSES
    shards = neighbors.shard(np.load(tmp_path / "bank.npy", mmap_mode="r"), made(parts), labels)
    assert (shards.shape, shards.dtype) == (bank.shape, bank.dtype)
    each = math.ceil(rows / parts)
    for leaf in (shards.rows, shards.index, shards.labels):
        assert {part.data.shape[0] for part in leaf.addressable_shards} == {each}
    there = np.asarray(shards.index) >= 0
    np.testing.assert_array_equal(np.asarray(shards.index)[there], np.arange(rows))
    np.testing.assert_array_equal(np.asarray(shards.rows)[there], bank)
    np.testing.assert_array_equal(np.asarray(shards.labels)[there], labels)


def on_one_and_on(parts, kind, metric, search=search):
    query, bank = sample(kind)
    one = search(query, jnp.asarray(bank), K, metric=metric)
    return one, search(query, neighbors.shard(bank, made(parts)), K, metric=metric)


@pytest.mark.parametrize(("parts", "metric"), METRICS_ON, ids=str)
def test_many_devices_find_what_one_finds(parts, metric):
    one, near = on_one_and_on(parts, "gaussian", metric)
    np.testing.assert_array_equal(near.index, one.index)
    np.testing.assert_allclose(near.distance, one.distance, rtol=1e-6)
    if metric != Cosine():  # which rounds whatever the numbers
        same(*on_one_and_on(parts, "short", metric))


@pytest.mark.parametrize("kind", ["grid", "duplicated", "equal", "outlier"])
@pytest.mark.parametrize("parts", MESHES)
def test_ties_go_to_the_lower_row_on_whatever_device(kind, parts):
    query, bank = sample(kind)
    near = search(query, neighbors.shard(bank, made(parts)), K, metric=Euclidean())
    distance, index = brute(query, bank, K)
    np.testing.assert_array_equal(near.index, index)
    np.testing.assert_allclose(near.distance, distance, rtol=2e-6)


@pytest.mark.parametrize(
    ("parts", "rows", "k"),
    [(4, 1003, 300), (4, 8, 8), (4, 5, 4), (4, 1, 1), (2, 8, 8), (2, 5, 4), (1, 5, 4)],
)
def test_k_may_exceed_the_rows_of_a_device(parts, rows, k):
    query, bank = sample("short", rows)
    near = search(query, neighbors.shard(bank, made(parts)), k)
    assert near.index.shape == (QUERIES, k)
    same(near, search(query, jnp.asarray(bank), k))
    np.testing.assert_array_equal(near.index, brute(query, bank, k)[1])


@pytest.mark.parametrize(("parts", "queries"), [(1, 0), (4, 0), (1, 1), (2, 1), (1, 8), (4, 8)])
def test_any_number_of_queries(parts, queries):
    query, bank = sample("short", 67)
    near = search(query[:queries], neighbors.shard(bank, made(parts)), K)
    same(near, search(query[:queries], jnp.asarray(bank), K))


@pytest.mark.parametrize(("parts", "dtype"), [(2, np.float16), (4, np.uint8)])
def test_bytes_and_halves_stay_what_they_are(parts, dtype):
    query, bank = sample("grid", 67)
    bank = (bank * 3).astype(dtype)
    shards = neighbors.shard(bank, made(parts))
    assert shards.rows.dtype == dtype
    same(search(query, shards, K), search(query, jnp.asarray(bank), K))


ONLY = np.arange(QUERIES, dtype=np.int32) % (CLASSES + 1) - 1  # -1 is no row's label, nor is padding
RESTRICTED = {
    "only": {"only": ONLY},
    "several": {"only": np.stack([ONLY, ONLY[::-1], ONLY], 1)},
    "without": {"without": ONLY},
}


@pytest.mark.parametrize(
    ("parts", "restriction", "whose"),
    [
        (1, "several", "shard's"),
        (2, "without", "shard's"),
        *((4, restriction, "shard's") for restriction in RESTRICTED),
        (4, "only", "search's"),
        (2, "several", "search's"),
    ],
)
def test_restricted_searches(parts, restriction, whose):
    """Class 0 has fewer rows than k, and all on one device."""
    query, bank = sample("grid", 67)
    labels = np.where(np.arange(67) < 3, 0, 1 + np.arange(67) % (CLASSES - 1)).astype(np.int32)
    options = jax.tree.map(jnp.asarray, RESTRICTED[restriction])
    one = search(query, jnp.asarray(bank), K, labels=jnp.asarray(labels), **options)
    if whose == "shard's":
        near = search(query, neighbors.shard(bank, made(parts), labels), K, **options)
    else:
        shards = neighbors.shard(bank, made(parts))
        near = search(query, shards, K, labels=jnp.asarray(labels), **options)
    same(near, one)
    if restriction != "several":
        eligible = labels == ONLY[:, None] if restriction == "only" else labels != ONLY[:, None]
        np.testing.assert_array_equal(near.index, brute(query, bank, K, eligible)[1])


def test_several_labels_in_a_large_bank():
    query, bank = sample("grid")
    labels = (np.arange(ROWS) % CLASSES).astype(np.int32)
    only = RESTRICTED["several"]["only"]
    near = search(query, neighbors.shard(bank, made(4), labels), K, only=jnp.asarray(only))
    for group in range(only.shape[1]):
        distance, index = brute(query, bank, K, labels == only[:, group, None])
        np.testing.assert_array_equal(near.index[:, group], index)
        np.testing.assert_allclose(near.distance[:, group], distance, rtol=2e-6)


def test_leave_one_out_with_the_shards_own_rows():
    bank = sample("grid", 67)[1]
    numbers = np.arange(67, dtype=np.int32)
    shards = neighbors.shard(bank, made(4), numbers)
    near = search(jnp.asarray(bank), shards, K, without=jnp.asarray(numbers))
    np.testing.assert_array_equal(near.index, brute(bank, bank, K, ~np.eye(67, dtype=bool))[1])


def test_inside_jit_and_outside():
    """The bank as an argument, closed over, and without jit, of a query that is computed."""
    query, bank = sample("short", 8)
    one, shards = search(query, jnp.asarray(bank), K), neighbors.shard(bank, made(2))
    same(jax.jit(lambda half, bank: neighbors.search(half * 2, bank, K))(query / 2, shards), one)
    same(jax.jit(lambda half: neighbors.search(half * 2, shards, K))(query / 2), one)
    same(neighbors.search(query, shards, K), one)


def test_the_answer_is_on_every_device():
    query, bank = sample("short", 67)
    near = search(query, neighbors.shard(bank, made(4)), K)
    for leaf in near:
        assert len(leaf.sharding.device_set) == 4
        assert leaf.is_fully_replicated


@pytest.mark.parametrize(("parts", "metric"), [(1, Euclidean()), (2, Cosine()), (4, Euclidean())])
def test_gradients_are_those_of_one_device(parts, metric):
    """To the query and to the bank, whose padding gets none."""
    query, bank = sample("gaussian", 67)
    query = query.at[0].set(bank[66])  # on a row
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(QUERIES, K)), jnp.float32)
    shards = neighbors.shard(bank, made(parts))

    def total(query, bank):
        return (weight * neighbors.search(query, bank, K, metric=metric).distance).sum()

    def total_of_parts(query, rows):
        return total(query, dataclasses.replace(shards, rows=rows))

    one = jax.jit(jax.grad(total, (0, 1)))(query, jnp.asarray(bank))
    to_query, to_rows = jax.jit(jax.grad(total_of_parts, (0, 1)))(query, shards.rows)
    there = np.asarray(shards.index) >= 0
    np.testing.assert_allclose(to_query, one[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.asarray(to_rows)[there], one[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(to_rows)[~there], 0)
    assert {part.data.shape for part in to_rows.addressable_shards} == {(-(-67 // parts), DIM)}


def test_a_missing_neighbour_has_gradient_zero_on_every_device():
    bank = jnp.array([[0.0, 0.0], [3.0, 4.0], [9.0, 9.0]])
    shards = neighbors.shard(np.asarray(bank), made(4), np.array([0, 1, 1], np.int32))

    def finite(query):
        near = neighbors.search(query, shards, 2, only=jnp.array([0]))
        return jnp.where(near.index < 0, 0.0, near.distance).sum()

    np.testing.assert_allclose(jax.jit(jax.grad(finite))(bank[1:2]), [[0.6, 0.8]], rtol=1e-6)


COLLECTIVE = (
    r"(?:all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter|collective-broadcast)"
)
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?(%[\w.-]+) = (.*?) ([\w-]+)\((.*)$", re.MULTILINE)


def collectives(text):
    """(name, numbers that go in or come out) of every collective of a compiled program."""

    def numbers(shape):
        found = re.findall(r"\b[a-z]+\d+\[([\d,]*)\]", shape)
        return sum(math.prod(map(int, filter(None, sizes.split(",")))) for sizes in found)

    lines = INSTRUCTION.findall(text)
    sizes = {name: numbers(shape) for name, shape, _, _ in lines}
    for name, _, operation, rest in lines:
        if re.fullmatch(COLLECTIVE + "(?:-start)?", operation):
            operands = re.findall(r"%[\w.-]+", rest.split("), ")[0])
            yield operation, max(sizes[name], sum(sizes[operand] for operand in operands))


def test_rows_are_taken_by_their_numbers_and_the_bank_stays_where_it_is():
    """Of one process, and of two with 3 and 4 rows in parts of 2."""
    rows = np.arange(21.0, dtype=np.float32).reshape(7, 3)
    one = neighbors.shard(rows, made(4))
    padded = jnp.asarray(np.insert(rows, 3, -1.0, 0))
    two = dataclasses.replace(one, rows=jax.device_put(padded, one.rows.sharding), firsts=(0, 3))
    index = jnp.array([[6, 0], [3, 2]], jnp.int32)
    for shards in (one, two):
        np.testing.assert_array_equal(jax.jit(lambda s, i: s[i])(shards, index), rows[index])
    large = neighbors.shard(np.zeros((8192, 64), np.float32), made(4))
    text = jax.jit(lambda s, i: s[i]).lower(large, index).compile().as_text()
    assert all(numbers <= 4 * 64 for _, numbers in collectives(text))


def test_a_classifier_over_devices_decides_and_is_attacked_as_on_one():
    model, x, y = victims.digits()
    x, y, shards = x[:4], y[:4], classifiers.shard(model, made(4))
    np.testing.assert_array_equal(shards.votes(x), model.votes(x))
    attack = functools.partial(attacks.minimum_norm, jax.random.key(0), steps=3, starts=3)
    one, many = attack(model, x, y), attack(shards, x, y)
    np.testing.assert_allclose(many.image, one.image, atol=1e-6)
    np.testing.assert_allclose(many.norm, one.norm, atol=1e-6)
    for whole in (
        functools.partial(attacks.kfgsm, jax.random.key(0), eps=0.1),
        functools.partial(attacks.dknn, jax.random.key(0), eps=0.1),
        certificates.voronoi,
        lambda model, x, y: attacks.imitate(jax.random.key(0), model),
    ):
        with pytest.raises(ValueError, match="the bank is over several devices"):
            whole(shards, x, y)


def test_each_device_has_its_part_of_every_tile_of_a_batch():
    """A batch over four devices in tiles of 8: each multiplies 2 rows, and nothing is sent."""
    batch = jax.device_put(jnp.ones((32, 64)), mesh.batch(made(4)))
    tiled = neighbors.in_tiles(lambda x: x @ jnp.ones((64, 512)), 8)
    program = jax.jit(tiled, compiler_options=AS_USERS).lower(batch).compile()
    assert not list(collectives(program.as_text()))
    alone = jax.jit(tiled, compiler_options=AS_USERS).lower(jnp.ones((32, 64))).compile()
    assert program.cost_analysis()["flops"] < 0.3 * alone.cost_analysis()["flops"]
    np.testing.assert_array_equal(program(batch), np.full((32, 512), 64.0))


@pytest.mark.parametrize(("parts", "groups"), [(2, 0), (4, 2)])
def test_no_device_sees_the_whole_bank(parts, groups):
    """Between devices go at most the queries and k neighbours of each from each part."""
    rows, dim, queries, k = 8192, 64, 8, 3
    shards = neighbors.shard(np.zeros((rows, dim), np.float32), made(parts), np.zeros(rows, np.int32))
    only = jnp.zeros((queries, groups), jnp.int32) if groups else None
    program = as_users.lower(jnp.zeros((queries, dim)), shards, k, only=only).compile()
    sent = list(collectives(program.as_text()))
    assert any(name.startswith("all-to-all") for name, _ in sent), "the search is over several devices"
    padded = -(-queries // 4) * 4
    bound = padded * max(dim, max(1, groups) * k * parts)
    assert bound < rows * dim / 100
    assert all(numbers <= bound for _, numbers in sent), sent
    memory = program.memory_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    part = 4 * rows * dim // parts
    assert part < held < 2 * part, "its own part, not copied, and less than that beside it"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 6}, "k=6 neighbours asked of a bank of 5 rows"),  # of the 8 with padding
        ({"k": 0}, "k=0 neighbours asked of a bank of 5 rows"),
        ({"query": jnp.zeros((3, 3))}, r"query \(3, 3\) and bank \(5, 2\)"),
        ({"only": jnp.arange(3)}, "labels go with only= or without="),
        ({"labels": jnp.arange(5)}, "labels go with only= or without="),
    ],
)
def test_what_cannot_be_answered_is_refused(arguments, message):
    unchecked = inspect.unwrap(neighbors.search)  # by jaxtyping, whose error would come first
    shards = neighbors.shard(np.zeros((5, 2), np.float32), made(4))
    with pytest.raises(ValueError, match=message):
        unchecked(**{"query": jnp.zeros((3, 2)), "bank": shards, "k": 1} | arguments)


@pytest.mark.parametrize("count", [4, 6])
def test_labels_are_one_for_each_row(count):
    unchecked = inspect.unwrap(neighbors.shard)  # by jaxtyping, whose error would come first
    with pytest.raises(ValueError, match=rf"labels of shape \({count},\): one for each of 5 rows"):
        unchecked(np.zeros((5, 2), np.float32), made(2), np.zeros(count, np.int32))


def test_an_empty_bank_is_refused():
    with pytest.raises(ValueError, match="the bank is empty"):
        neighbors.shard(np.zeros((0, 2), np.float32), made(4))
