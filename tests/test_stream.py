"""A bank that is sent piece by piece, what a search will take, and merging answers."""

import functools
import importlib
import inspect
import itertools
import os
import re

import banks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from banks import brute, same
from compiled import AS_USERS

from knn_jax import neighbors

pytestmark = pytest.mark.usefixtures("quick")
ROWS, QUERIES, DIM, K, CLASSES = 300, 9, 12, 7, 4
PIECES = [300, 1000, 100, 64, 5]  # rows of a piece: all, more, a divisor, none, fewer than k
module = importlib.import_module("knn_jax.neighbors.stream")  # whose name is also the function's

search = jax.jit(neighbors.search, static_argnames=("k", "metric", "coarse"))


def sample(kind, rows=ROWS, queries=QUERIES):
    return banks.sample(kind, rows, queries, levels=3)


def mapped(bank, folder):
    np.save(folder / "bank.npy", bank)
    return np.load(folder / "bank.npy", mmap_mode="r+")


@pytest.mark.parametrize("file", [False, True], ids=["memory", "file"])
@pytest.mark.parametrize("rows", PIECES)
def test_pieces_do_not_change_the_answer(tmp_path, rows, file):
    for kind in ("short", "grid"):  # the second with ties
        query, bank = sample(kind)
        pieces = mapped(bank, tmp_path) if file else bank
        same(neighbors.stream(query, pieces, K, rows=rows), search(query, jnp.asarray(bank), K))


@pytest.mark.parametrize("rows", PIECES)
def test_real_numbers_change_only_the_last_bits(rows):
    query, bank = sample("gaussian")
    near, whole = neighbors.stream(query, bank, K, rows=rows), search(query, jnp.asarray(bank), K)
    np.testing.assert_allclose(near.distance, whole.distance, rtol=1e-6)
    np.testing.assert_array_equal(near.index, whole.index)


def test_ties_go_to_the_lower_row_in_whatever_piece():
    query, bank = sample("duplicated")
    near = neighbors.stream(query, bank, K, rows=100)
    np.testing.assert_array_equal(near.index, brute(query, bank, K)[1])


def test_ties_go_to_the_lower_row_where_the_last_piece_is_small(monkeypatch):
    """Another program of another size, for it alone, might round otherwise."""
    piece = inspect.unwrap(module._piece)
    as_users = jax.jit(piece, static_argnums=(0, 1, 4), compiler_options=AS_USERS)
    monkeypatch.setattr(module, "_piece", as_users)
    query, bank = sample("gaussian", 208, 13)
    bank[:192] += 100
    bank[200:] = bank[192:200]
    near = neighbors.stream(query, bank, 8, rows=200)
    np.testing.assert_array_equal(near.index, brute(query, bank, 8)[1])


def test_k_may_be_all_rows():
    query, bank = sample("short", 20)
    same(neighbors.stream(query, bank, 20, rows=6), search(query, jnp.asarray(bank), 20))


@pytest.mark.parametrize("metric", ["inner_product", neighbors.Subspaces(2)], ids=str)
def test_other_metrics(metric):
    query, bank = sample("short")
    near = neighbors.stream(query, bank, K, metric=metric, rows=100)
    same(near, search(query, jnp.asarray(bank), K, metric=metric))


def test_the_cosine_and_a_coarse_matmul():
    query, bank = sample("gaussian")
    options = {"metric": "cosine", "coarse": "bfloat16"}
    near, whole = (
        neighbors.stream(query, bank, K, rows=100, **options),
        search(query, bank, K, **options),
    )
    np.testing.assert_array_equal(near.index, whole.index)
    np.testing.assert_allclose(near.distance, whole.distance, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
def test_the_file_may_hold_bytes_or_halves(tmp_path, dtype):
    query, bank = sample("grid")
    bank = (40 * bank).astype(dtype)
    near = neighbors.stream(query, mapped(bank, tmp_path), K, rows=64)
    same(near, search(query, jnp.asarray(bank), K))


ONLY = np.arange(QUERIES, dtype=np.int32) % (CLASSES + 1)  # the last is no row's label
RESTRICTED = {
    "only": {"only": ONLY},
    "several": {"only": np.stack([ONLY, ONLY[::-1], ONLY], 1)},
    "without": {"without": ONLY},
}


@pytest.mark.parametrize("restriction", RESTRICTED)
def test_restricted_searches(restriction):
    """Class 0 has fewer rows than k, and none in some pieces."""
    query, bank = sample("grid")
    labels = np.where(np.arange(ROWS) % 99 == 0, 0, 1 + np.arange(ROWS) % (CLASSES - 1)).astype(
        np.int32
    )
    options = jax.tree.map(jnp.asarray, RESTRICTED[restriction])
    near = neighbors.stream(query, bank, K, labels=labels, rows=64, **options)
    same(near, search(query, jnp.asarray(bank), K, labels=jnp.asarray(labels), **options))


def test_no_queries_get_an_empty_answer():
    near = neighbors.stream(jnp.zeros((0, DIM)), sample("grid")[1], K, rows=100)
    assert near.distance.shape == near.index.shape == (0, K)


def test_all_pieces_are_tracked_in_order():
    query, bank = sample("short")
    given, seen = [], []

    def track(pieces):
        given.append(pieces)
        for piece in pieces:
            seen.append(piece)
            yield piece

    neighbors.stream(query, bank, K, rows=64, track=track)
    assert given == [range(0, ROWS, 64)]
    assert seen == list(given[0])


def touched(bank, path):
    os.utime(path, ns=(0, 0))


def rewritten(bank, path):
    bank[-1] = 0
    bank.flush()


def longer(bank, path):
    with path.open("ab") as file:
        file.write(b"more")


def replaced(bank, path):
    np.save(path.with_name("other.npy"), np.zeros_like(bank))
    os.replace(path.with_name("other.npy"), path)


@pytest.mark.parametrize("when", [0, 2], ids=["at first", "at last"])
@pytest.mark.parametrize("change", [touched, rewritten, longer, replaced])
def test_a_file_that_changes_meanwhile_is_refused(tmp_path, change, when):
    query, bank = sample("short")
    bank = mapped(bank, tmp_path)
    os.utime(tmp_path / "bank.npy", ns=(1, 1))  # not a moment ago, which a coarse clock could not tell

    def track(pieces):
        for number, piece in enumerate(pieces):
            if number == when:
                change(bank, tmp_path / "bank.npy")
            yield piece

    with pytest.raises(ValueError, match=r"bank\.npy changed while it was searched"):
        neighbors.stream(query, bank, K, rows=100, track=track)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 5}, "k=5 neighbours asked of a bank of 4 rows: use 1 to 4"),
        ({"k": 0}, "k=0 neighbours asked of a bank of 4 rows: use 1 to 4"),
        ({"bank": np.zeros((0, 2), np.float32)}, "the bank is empty"),
    ],
)
def test_what_cannot_be_answered_is_refused(arguments, message):
    unchecked = inspect.unwrap(neighbors.stream)
    bank = np.zeros((4, 2), np.float32)
    with pytest.raises(ValueError, match=message):
        unchecked(**{"query": jnp.zeros((3, 2)), "bank": bank, "k": 1} | arguments)


def test_the_device_holds_two_pieces(tmp_path):
    rows, each, dim = 8000, 1000, 64
    bank = mapped(np.ones((rows, dim), np.float32), tmp_path)
    query = jnp.zeros((2, dim))
    before = {id(array) for array in jax.live_arrays()}
    held = []

    def track(pieces):
        for piece in pieces:
            held.append(sum(array.nbytes for array in jax.live_arrays() if id(array) not in before))
            yield piece

    neighbors.stream(query, bank, 3, rows=each, track=track)
    piece, more = each * dim * 4, 10_000
    assert len(held) == 8
    assert 0 < max(held) < 2 * piece + more
    assert held[-1] == held[2], "nothing piles up"


@pytest.mark.parametrize("options", [{}, {"metric": "cosine", "dtype": jnp.uint8}], ids=str)
def test_an_estimate_is_of_the_program_that_will_run(options):
    queries, rows, k = 20, 60, 3
    found = neighbors.estimate(queries, rows, DIM, k, **options)
    assert found.seconds > 0
    bank = jax.ShapeDtypeStruct((rows, DIM), options.get("dtype", jnp.float32))
    query = jax.ShapeDtypeStruct((queries, DIM), jnp.float32)
    program = search.lower(query, bank, k, metric=options.get("metric", "l2")).compile()
    memory = program.memory_analysis()
    assert found.bank_bytes == rows * DIM * bank.dtype.itemsize
    assert found.more_bytes == memory.temp_size_in_bytes + memory.output_size_in_bytes > 0


def test_an_estimate_is_one_line():
    line = str(neighbors.Estimate(3 * 2**30, 5 * 2**20, 0.1234))
    assert re.fullmatch(r"bank 3,072 MB, 5 MB beside it, about 0\.12 s on \S.*", line)


def answers(groups=()):
    """Of three parts of a bank with ties and, in some, fewer rows than k; and of all parts."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(36)  # parts need not be next to each other
    distance = rng.integers(0, 4, size=(5, *groups, 36)).astype(np.float32)
    distance[rng.random(distance.shape) < 0.2] = np.inf
    distance[0] = np.inf

    def nearest(of, width):
        of = np.sort(of)
        order = np.argsort(distance[..., of], -1, kind="stable")[..., :width]
        found = np.take_along_axis(distance[..., of], order, -1)
        return neighbors.Neighbors(
            jnp.asarray(found), jnp.asarray(np.where(np.isinf(found), -1, of[order]), jnp.int32)
        )

    parts = [nearest(of, K) for of in (ids[:3], ids[3:20], ids[20:])]
    return parts, nearest(ids, K)


@pytest.mark.parametrize("groups", [(), (2,)], ids=["one", "groups"])
def test_answers_merge_in_any_order(groups):
    merge = functools.partial(jax.jit(neighbors.merge, static_argnames="k"), k=K)
    parts, whole = answers(groups)
    for a, b, c in itertools.permutations(parts):
        same(merge(merge(a, b), c), whole)
        same(merge(a, merge(b, c)), whole)


def test_an_answer_and_itself_from_nothing():
    """Rows that are not there do not displace those that are, nor change them."""
    (_, some, _), _ = answers()
    nothing = jax.tree.map(lambda leaf: jnp.full_like(leaf, -1), some)
    nothing = nothing._replace(distance=jnp.full_like(some.distance, jnp.inf))
    same(neighbors.merge(some, nothing, K), some)
    same(neighbors.merge(nothing, some, K), some)
