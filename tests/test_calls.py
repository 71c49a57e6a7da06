"""Calls as people write them: numbers and lists of any kind, one query, and a caller that maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from banks import same

from knn_jax import attacks, certificates, classifiers, mesh, neighbors
from knn_jax.neighbors import tiles
from knn_jax.values import given

pytestmark = pytest.mark.usefixtures("quick")
ROWS, DIM, QUERIES, K = 40, 6, 6, 3
rng = np.random.default_rng(0)
BANK = rng.normal(size=(ROWS, DIM)).astype(np.float32)
QUERY = rng.normal(size=(QUERIES, DIM)).astype(np.float32)
LABELS = rng.integers(0, 3, ROWS).astype(np.int32)
ONLY = np.arange(QUERIES, dtype=np.int32) % 3
GROUPS = np.tile(np.array([2, 0], np.int32), (QUERIES, 1))
WAYS = [{}, {"labels": LABELS, "only": ONLY}, {"labels": LABELS, "only": GROUPS}]
WAYS.append({"labels": LABELS, "without": ONLY})
FORMS = [
    list,
    tuple,
    lambda a: a.tolist(),
    np.asarray,
    jnp.asarray,
    lambda a: list(map(jnp.asarray, a)),
]
THREE = [3, 3.0, np.int64(3), np.uint8(3), np.float32(3), np.array(3), jnp.int32(3), jnp.bfloat16(3)]
NO_K = [2.5, True, np.True_, float("nan"), float("inf"), "3", None, [3], np.array([3]), 3 + 0j]
NO_K += [0, -1, ROWS + 1, 2**70, jax.random.key(3)]


def search(query=QUERY, bank=BANK, k=K, **among):
    return neighbors.search(query, bank, k, **among)


def close(found, expected):
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_allclose(found.distance, expected.distance, rtol=1e-6)


@pytest.mark.parametrize("k", THREE, ids=repr)
def test_k_is_any_whole_number(k):
    assert given.whole("k", k) == 3
    assert type(given.whole("k", k)) is int
    same(search(k=k), search())
    same(neighbors.stream(QUERY, BANK, k, rows=k), neighbors.stream(QUERY, BANK, 3, rows=3))
    assert classifiers.knn(None, IMAGES, CLASSES, k=k).k == 3


@pytest.mark.parametrize("k", NO_K, ids=repr)
@pytest.mark.parametrize("function", [neighbors.search, neighbors.stream])
def test_another_k_is_refused_by_name(function, k):
    unchecked = function.__wrapped__  # by jaxtyping, whose error may come first
    with pytest.raises(ValueError, match=r"^k=") as refused:
        unchecked(QUERY, BANK, k)
    assert "\n" not in str(refused.value)


def test_a_traced_k_is_refused_by_name():
    for function in (search, neighbors.stream):
        with pytest.raises(ValueError, match=r"^k is traced"):
            jax.jit(lambda k, function=function: function(QUERY, BANK, k))(3)
    with pytest.raises(ValueError, match=r"^steps is traced"):
        jax.jit(lambda steps: attacks.PGD(steps=steps))(3)


@pytest.mark.parametrize("among", WAYS, ids=lambda among: "-".join(among) or "all")
@pytest.mark.parametrize("form", FORMS, ids=range(len(FORMS)))
def test_arrays_are_lists_too(form, among):
    asked = {name: form(array) for name, array in among.items()}
    same(search(form(QUERY), form(BANK), **asked), search(**among))
    close(neighbors.stream(form(QUERY), form(BANK), K, rows=9, **asked), search(**among))


def test_a_bank_over_devices_is_a_list_too():
    bank = neighbors.shard(BANK.tolist(), mesh.make(rows=4), LABELS.tolist())
    close(search(bank=bank, only=ONLY.tolist()), search(labels=LABELS, only=ONLY))
    close(search(QUERY[0], bank, only=ONLY[0]), search(QUERY[0], labels=LABELS, only=ONLY[0]))
    close(jax.vmap(lambda query: search(query, bank))(jnp.asarray(QUERY)), search())


@pytest.mark.parametrize(
    "kind", ["int8", "uint16", "int64", "uint64", "float32", "float64", "bfloat16"]
)
def test_labels_are_whole_numbers_of_any_type(kind):
    expected = search(labels=LABELS, only=ONLY)
    same(search(labels=LABELS.astype(jnp.dtype(kind)), only=ONLY), expected)
    same(search(labels=LABELS, only=ONLY.astype(jnp.dtype(kind))), expected)
    model = classifiers.knn(None, IMAGES, CLASSES.astype(jnp.dtype(kind)), k=3)
    np.testing.assert_array_equal(model.labels, CLASSES)


@pytest.mark.parametrize("among", WAYS, ids=lambda among: "-".join(among) or "all")
def test_one_query_is_a_vector(among):
    every = search(**among)
    for number in (0, QUERIES - 1):
        asked = {name: a if name == "labels" else a[number] for name, a in among.items()}
        expected = jax.tree.map(lambda leaf, number=number: leaf[number], every)
        for query in (QUERY[number], QUERY[number].tolist()):
            close(search(query, **asked), expected)
            close(neighbors.stream(query, BANK, K, rows=9, **asked), expected)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"query": np.zeros((2, 0)), "bank": np.zeros((3, 0))}, "dimension"),
        ({"query": QUERY * 1j}, "query is complex"),
        ({"bank": [[1j] * DIM] * 4}, "bank is complex"),
        ({"query": [[1.0], [1.0, 2.0]]}, "query "),
        ({"bank": [["a"] * DIM] * 4}, "bank "),
        ({"query": None}, "query "),
        ({"query": 1.0}, "query "),
        ({"bank": BANK[0]}, "bank "),
        ({"bank": []}, "bank"),
        ({"labels": LABELS + 0.5, "only": ONLY}, "labels "),
        ({"labels": LABELS, "only": ONLY * np.nan}, "only "),
        ({"labels": LABELS, "without": [[0]] * QUERIES}, "without "),
        ({"query": QUERY[0], "labels": LABELS, "without": [0, 1]}, "without "),
    ],
    ids=str,
)
def test_what_is_no_point_is_refused_by_name(changed, name):
    for function in (neighbors.search, neighbors.stream):
        with pytest.raises(ValueError, match=name) as refused:
            function.__wrapped__(**({"query": QUERY, "bank": BANK, "k": 3} | changed))
        assert "\n" not in str(refused.value)


def mapped(query, bank):
    return jax.vmap(lambda query: search(query, bank))(query)


def mapped_twice(query, bank):
    near = jax.vmap(jax.vmap(lambda query: search(query, bank)))(query.reshape(2, 3, DIM))
    return jax.tree.map(lambda leaf: leaf.reshape(QUERIES, K), near)


def scanned(query, bank):
    return jax.lax.scan(lambda carry, query: (carry, search(query, bank)), 0, query)[1]


def over_banks(query, bank):
    """The bank and another, mapped: of this one's."""
    near = jax.vmap(search, (None, 0))(query, jnp.stack([bank, 2 * bank]))
    return jax.tree.map(lambda leaf: leaf[0], near)


def over_both(query, bank):
    many = jnp.broadcast_to(bank[None], (QUERIES, *bank.shape))
    return jax.vmap(search)(query, many)


def by_hand(query, bank):
    """The gradient of the sum of the sines of all distances."""
    near = search(query, bank)
    way = query[:, None] - bank[near.index]
    pull = jnp.cos(near.distance)[..., None] * way / near.distance[..., None]
    return pull.sum(1), jnp.zeros_like(bank).at[near.index].add(-pull)


CALLERS = [
    search,
    jax.jit(search),
    mapped,
    jax.jit(mapped),
    mapped_twice,
    scanned,
    over_banks,
    over_both,
]


@pytest.fixture(params=["direct", "small"])
def either(request, monkeypatch):
    """All rows are measured, or first bounded by a matmul."""
    monkeypatch.setattr(tiles, "DIRECT", 2**40 if request.param == "direct" else 0)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.parametrize("caller", CALLERS, ids=range(len(CALLERS)))
def test_a_caller_may_map_scan_and_compile(either, caller):
    query, bank = jnp.asarray(QUERY), jnp.asarray(BANK)

    def loss(query, bank):
        return jnp.sum(jnp.sin(caller(query, bank).distance))

    close(caller(query, bank), search())
    slopes = jax.jit(jax.grad(loss, (0, 1)))(query, bank)
    for slope, right in zip(slopes, by_hand(query, bank), strict=True):
        np.testing.assert_allclose(slope, right, rtol=1e-4, atol=1e-6)


def test_mapped_gradients_are_those_of_a_batch():
    def one(query):
        return search(query).distance.sum()

    def every(query):
        return search(query).distance.sum()

    each = jax.vmap(jax.grad(one))(jnp.asarray(QUERY))
    np.testing.assert_allclose(each, jax.grad(every)(jnp.asarray(QUERY)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("among", WAYS[1:], ids="-".join)
def test_each_mapped_query_has_its_own_labels(among):
    names = [name for name in among if name != "labels"]

    def one(query, *asked):
        return search(query, labels=LABELS, **dict(zip(names, asked, strict=True)))

    asked = [jnp.asarray(among[name]) for name in names]
    close(jax.vmap(one)(jnp.asarray(QUERY), *asked), search(**among))
    shared = [leaf[0] for leaf in asked]
    every = [jnp.broadcast_to(leaf[None], (QUERIES, *leaf.shape)) for leaf in shared]
    expected = search(labels=LABELS, **dict(zip(names, every, strict=True)))
    close(jax.vmap(lambda query: one(query, *shared))(jnp.asarray(QUERY)), expected)


def test_a_mapped_search_measures_every_row_for_nobody_whom_bounds_decide(monkeypatch):
    """Its conditionals stay such: as many as in the search of a batch."""
    monkeypatch.setattr(tiles, "DIRECT", 0)
    jax.clear_caches()

    def conditionals(function):
        return str(jax.make_jaxpr(function)(jnp.asarray(QUERY), jnp.asarray(BANK))).count("cond[")

    assert conditionals(mapped) == conditionals(search) > 0
    jax.clear_caches()


IMAGES = rng.random((12, 2, 2, 1)).astype(np.float32)
CLASSES = np.arange(12) % 3
X, Y = IMAGES[:4] * 0.9, CLASSES[:4]
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def model():
    return classifiers.knn(None, IMAGES, CLASSES, k=1)


def equal(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


ATTACKS = {
    "pgd": lambda *a: attacks.pgd(KEY, *a, eps=0.1, steps=2),
    "minimum_norm": lambda *a: attacks.MinimumNorm(steps=2, starts=1)(KEY, *a),
    "boundary": lambda *a: attacks.boundary(KEY, *a, steps=2),
    "margin": lambda *a: certificates.margin(*a),
    "voronoi": lambda *a: certificates.voronoi(*a, own=2, other=4),
    "votes": lambda model, x, y: model.votes(x),
    "predict": lambda model, x, y: model.predict(x),
    "right": lambda model, x, y: model.right(x, y),
    "lead": lambda model, x, y: model.margin(x, y),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_images_and_labels_are_arrays_or_lists(model, name):
    call = ATTACKS[name]
    expected = call(model, jnp.asarray(X), jnp.asarray(Y, jnp.int32))
    for form in (np.asarray, list, lambda a: a.tolist()):
        equal(call(model, form(X), form(Y)), expected)
    equal(call(model, X, Y.astype(np.float64)), expected)
    equal(call(classifiers.knn(None, IMAGES.tolist(), CLASSES.tolist(), k=1.0), X, Y), expected)


@pytest.mark.parametrize("eps", [0.1, np.float64(0.1), np.array(0.1), jnp.float32(0.1)], ids=repr)
def test_eps_is_any_number(model, eps):
    equal(attacks.pgd(KEY, model, X, Y, eps=eps, steps=2), ATTACKS["pgd"](model, X, Y))


def test_eps_may_be_traced_and_mapped(model):
    radii = jnp.array([0.05, 0.1])
    found = jax.vmap(lambda eps: attacks.pgd(KEY, model, X, Y, eps=eps, steps=2))(radii)
    equal(found.success[1], ATTACKS["pgd"](model, X, Y).success)


def test_knobs_are_any_whole_number():
    for steps in (2, 2.0, np.int64(2), jnp.int32(2)):
        assert attacks.PGD(steps=steps) == attacks.PGD(steps=2)
        assert type(attacks.PGD(steps=steps).steps) is int


@pytest.mark.parametrize("eps", ["8/255", None, [0.1, 0.2], np.array([0.1]), True, 1j], ids=repr)
def test_what_is_no_radius_is_refused_by_name(model, eps):
    with pytest.raises(ValueError, match=r"^eps=") as refused:
        attacks.PGD(steps=1).__class__.__call__.__wrapped__(attacks.PGD(), KEY, model, X, Y, eps=eps)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("images", [X[0], X[..., 0], X[0, 0], X[0].tolist(), [[1.0], [1.0, 2.0]], "x"])
def test_what_is_no_batch_of_images_is_refused_by_name(images):
    with pytest.raises(ValueError, match=r"^images ") as refused:
        classifiers.check_images(images)
    assert "\n" not in str(refused.value)


def test_votes_are_of_lists_and_of_one_query():
    equal(neighbors.votes([[0, 1, 1], [2, 2, -1]], jnp.int32(3)), np.array([[1, 2, 0], [0, 0, 2]]))
    equal(neighbors.votes([0, 1, 1], 3.0), np.array([1, 2, 0]))
