"""How representations are trained: one file for each paper's way."""

from knn_jax.defenses.basic import Defense, basic

__all__ = ["Defense", "basic"]
