"""Searches that go by bounds, where these exclude nothing, or may not be believed."""

import jax.numpy as jnp
import numpy as np
import pytest
from test_ways import DIM, METRICS, agrees
from ways import bounded  # noqa: F401

from knn_jax import neighbors
from knn_jax.neighbors import Euclidean, Subspaces

pytestmark = pytest.mark.usefixtures("quick", "bounded")
SIDE = 130  # rows about each query, far more than are measured


def shells(at, radius, spread):
    """Two queries, opposite, and rows about each whose distances differ less than a matmul rounds."""
    rng = np.random.default_rng(6)
    query = np.array([[at], [-at]]) * np.ones((2, DIM))
    centre = np.repeat(query, SIDE, 0)
    apart = rng.normal(size=(2 * SIDE, DIM)) - 2 * np.sign(centre)  # inwards
    length = radius * (1 + spread * rng.random((2 * SIDE, 1)))
    bank = centre + apart * length / np.linalg.norm(apart, axis=1, keepdims=True)
    return query.astype(np.float32), bank.astype(np.float32)


@pytest.mark.parametrize("metric", [Euclidean(), Euclidean(squared=True), Subspaces(1)], ids=str)
def test_what_bounds_cannot_tell_apart_is_measured(metric):
    """They exclude all rows beyond the nearest one, and none of the others; one label has few rows."""
    query, bank = shells(120.0, 1.0, 1e-3)
    bank[::SIDE] = query + np.float32(0.1)
    asked = jnp.asarray(query), jnp.asarray(bank), 4
    agrees(neighbors.search(*asked, metric=metric), metric, query, bank, rtol=2e-6)
    labels, only = (
        (np.arange(2 * SIDE) % SIDE < 2).astype(np.int32),
        np.array([[0, 1], [1, 0]], np.int32),
    )
    near = neighbors.search(*asked, metric=metric, labels=jnp.asarray(labels), only=jnp.asarray(only))
    for (number, group), label in np.ndenumerate(only):
        rows = np.flatnonzero(labels == label)
        found = np.searchsorted(rows, near.index[number, group])
        np.testing.assert_array_equal(rows[found], near.index[number, group])
        found = neighbors.Neighbors(near.distance[number, group][None], found[None])
        agrees(found, metric, query[number : number + 1], bank[rows], rtol=2e-6)


@pytest.mark.parametrize("metric", [Euclidean(), Subspaces(1)], ids=str)
def test_a_crowd_about_one_query_hides_nothing_of_another(metric):
    """The crowd makes a later tile choose otherwise, after rows of the other query were left behind."""
    query, bank = shells(120.0, 1.0, 1e-3)
    bank[0], bank[SIDE:] = query[0] + np.float32(0.1), query[1] + np.float32(0.1)
    near = neighbors.search(jnp.asarray(query), jnp.asarray(bank), 4, metric=metric)
    agrees(near, metric, query, bank, rtol=2e-6)


@pytest.mark.parametrize("coarse", [None, "tensorfloat32"])
def test_queries_whose_squares_overflow_do_not_exclude_anything(coarse):
    query, bank = shells(7.55e18, 5.5e17, 3e-5)
    largest = np.finfo(np.float32).max
    assert (np.sum(np.square(np.float64(bank)), 1) < largest).all()
    assert (np.sum(np.square(np.float64(query)), 1) > largest).all()
    near = neighbors.search(jnp.asarray(query), jnp.asarray(bank), 4, coarse=coarse)
    agrees(near, "l2", query, bank, rtol=3e-7)


def test_a_row_whose_square_overflows_may_be_the_nearest():
    bank = np.random.default_rng(7).uniform(-1e18, 1e18, size=(260, DIM)).astype(np.float32)
    bank[:, 0] *= 9
    bank[7] = 0
    bank[7, 0] = 1.9e19
    query = np.zeros((2, DIM), np.float32)
    query[:, 0] = 1.7e19, -1.7e19
    near = neighbors.search(jnp.asarray(query), jnp.asarray(bank), 4)
    assert near.index[0, 0] == 7
    agrees(near, "l2", query, bank)


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_equal_rows_come_lower_row_first(metric):
    """More of them than are measured, on the query, behind others."""
    bank = np.random.default_rng(8).normal(size=(260, DIM)).astype(np.float32)
    query = 3 * bank[:1]
    equal = np.arange(3, 260, 2)
    bank[equal] = query
    near = neighbors.search(jnp.asarray(query), jnp.asarray(bank), 40, metric=metric)
    np.testing.assert_array_equal(near.index, equal[None, :40])


def test_rows_that_two_tiles_share_are_found_once():
    """The last tile overlaps the one before; queries are near rows of either, and are soon decided."""
    bank = np.random.default_rng(9).normal(size=(260, DIM)).astype(np.float32)
    query = bank[180:] + np.float32(0.01)
    agrees(neighbors.search(jnp.asarray(query), jnp.asarray(bank), 4), "l2", query, bank)
