"""The three scripts: the flags of a recipe, and what is done with it."""

from knn_jax.cli.flags import main, parse
from knn_jax.cli.run import attack, certify, train

__all__ = ["attack", "certify", "main", "parse", "train"]
