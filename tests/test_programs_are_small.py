"""How much there is to compile: lines of StableHLO, for other platforms, and none for a last batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from victims import digits

from knn_jax import attacks, certificates, neighbors
from knn_jax.neighbors.padded import _seen

KEY = jax.random.key(0)


def search(rows, dim, queries, k):
    shapes = (
        jax.ShapeDtypeStruct((queries, dim), jnp.float32),
        jax.ShapeDtypeStruct((rows, dim), jnp.float32),
    )
    return jax.jit(lambda query, bank: neighbors.search(query, bank, k)), shapes


def of_digits(call):
    """A program of a classifier of digits and images, which are its arguments."""
    model, x, y = digits()
    return jax.jit(call), (model, x, y)


PROGRAMS = {
    "search": (lambda: search(300, 64, 50, 5), 200),
    "search_60k": (lambda: search(60_000, 128, 1000, 75), 1400),
    "predict": (lambda: of_digits(lambda model, x, _: model.predict(x)), 280),
    "pgd": (lambda: of_digits(lambda *args: attacks.pgd(KEY, *args, eps=0.1, steps=5)), 1400),
    "minimum_norm": (lambda: of_digits(lambda *args: attacks.minimum_norm(KEY, *args)), 3400),
    "ask": (lambda: of_digits(lambda *args: attacks.ask(KEY, *args, eps=0.1, steps=5)), 1600),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_do_not_grow(name):
    make, bound = PROGRAMS[name]
    program, arguments = make()
    lines = len(program.lower(*arguments).as_text().splitlines())
    assert 0.8 * bound < lines <= bound  # a bound far above says nothing


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_lowered_for_gpu_and_tpu(name):
    program, arguments = PROGRAMS[name][0]()
    assert export.export(program, platforms=["cuda", "tpu"])(*arguments).platforms == ("cuda", "tpu")


@pytest.fixture
def compiled():
    """A count of the programs that XLA compiles, of which there are none yet, nor sizes of batches."""
    jax.clear_caches()
    _seen.cache_clear()
    events = []

    def listen(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


CALLS = {
    "search": lambda model, query, x, y: neighbors.search(query, model.banks[0], 3),
    "search_without": lambda model, query, x, y: neighbors.search(
        query, model.banks[0], 3, labels=model.labels, without=y
    ),
    "votes": lambda model, query, x, y: model.votes(x),
    "pgd": lambda model, query, x, y: attacks.pgd(KEY, model, x, y, eps=0.1, steps=2),
    "minimum_norm": lambda model, query, x, y: attacks.minimum_norm(KEY, model, x, y, steps=2),
    "voronoi": lambda model, query, x, y: certificates.voronoi(model, x, y, lipschitz=1.0),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_smaller_batch_compiles_nothing(name, compiled):
    """And its answers are those of the same examples in the larger one."""
    model, x, y = digits()
    images, labels = np.asarray(x), np.asarray(y)

    def found(count):
        batch = images[:count].reshape(count, -1), images[:count], labels[:count]
        batch = jax.device_put(batch)
        before = len(compiled)
        return CALLS[name](model, *batch), len(compiled) - before

    (whole, programs), (part, more) = found(10), found(7)
    assert programs > 0
    assert more == 0
    for one, other in zip(jax.tree.leaves(part), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, other[:7] if other.ndim else other, rtol=1e-5, atol=1e-6)


def test_one_query_stays_one_and_half_a_batch_is_the_least_that_is_padded(compiled):
    bank = jax.device_put(np.random.default_rng(0).random((40, 3), np.float32))
    for count, programs in ((8, 1), (4, 0), (3, 1), (2, 0), (1, 1), (8, 0), (5, 0)):
        query = jax.device_put(np.ones((count, 3), np.float32))
        before = len(compiled)
        near = neighbors.search(query, bank, 2)
        assert near.index.shape == (count, 2)
        assert (len(compiled) > before) == bool(programs)
