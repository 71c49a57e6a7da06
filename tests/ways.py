"""The three ways of a search, each forced upon banks of any size."""

import jax
import pytest

from knn_jax.neighbors import tiles

WAYS = {"direct": (2**40, 0), "small": (0, 2**40), "large": (0, 0)}


def force(monkeypatch, way):
    """All searches that are traced from now on go this way."""
    for name, value in zip(("DIRECT", "SMALL"), WAYS[way], strict=True):
        monkeypatch.setattr(tiles, name, value)
    jax.clear_caches()  # of what was traced before


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    force(monkeypatch, request.param)
    yield request.param
    jax.clear_caches()
