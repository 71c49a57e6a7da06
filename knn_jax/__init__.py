"""Nearest-neighbour defenses, attacks and certificates in JAX."""
