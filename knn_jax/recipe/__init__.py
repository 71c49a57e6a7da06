"""Recipes: the values that a run is made of, what decides on a network, and the papers reproduced."""

from knn_jax.recipe.recipe import Evaluate, Paper, Recipe, finite, read, same_system, variants

__all__ = ["Evaluate", "Paper", "Recipe", "finite", "read", "same_system", "variants"]
