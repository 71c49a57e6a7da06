"""The folder of a run: who holds it, whose network it holds, and files written whole or not at all."""

from knn_jax.workdir.claim import check, claim, claimed, digest
from knn_jax.workdir.files import Place

__all__ = ["Place", "check", "claim", "claimed", "digest"]
