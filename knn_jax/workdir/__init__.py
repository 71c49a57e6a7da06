"""The folder of a run: who holds it, whose network it holds, and files written whole or not at all."""

from knn_jax.workdir.claim import check, claim, claimed, digest

__all__ = ["check", "claim", "claimed", "digest"]
