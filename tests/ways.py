"""The three ways of a search, each forced upon banks of any size, the last also in several tiles."""

import jax
import pytest

from knn_jax.neighbors import tiles

WAYS = {"direct": (2**40, 0), "small": (0, 2**40), "large": (0, 0), "tiled": (0, 0)}


def force(monkeypatch, way):
    """All searches that are traced from now on go this way."""
    for name, value in zip(("DIRECT", "SMALL"), WAYS[way], strict=True):
        monkeypatch.setattr(tiles, name, value)
    if way == "tiled":
        monkeypatch.setattr(tiles, "row_tile", lambda rows, dim, whole: min(rows, 77))
    jax.clear_caches()  # of what was traced before


@pytest.fixture(params=["direct", "small", "large"])
def way(request, monkeypatch):
    force(monkeypatch, request.param)
    yield request.param
    jax.clear_caches()


@pytest.fixture(params=["small", "large", "tiled"])
def bounded(request, monkeypatch):
    """Of the ways those that do not measure every row."""
    force(monkeypatch, request.param)
    yield request.param
    jax.clear_caches()


@pytest.fixture
def forced(monkeypatch):
    """A function that forces a way, for tests that are not of all."""
    yield lambda way: force(monkeypatch, way)
    jax.clear_caches()
