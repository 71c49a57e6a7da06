"""A search within a caller's `vmap`: one search of all queries, where they share a bank."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import PyTree


def batched(search: Callable[[PyTree, PyTree], PyTree]) -> Callable[[PyTree, PyTree], PyTree]:
    """`search(queries, bank)` of two trees of arrays; those of `queries` have an entry for each query.

    JAX makes a mapped `cond` a `select`, which computes both branches for everyone: each query would
    be searched in every way there is. Here mapped queries are one batch instead, and of mapped banks
    one is searched after the other. It has no gradient.
    """

    @custom_vmap
    def found(queries, bank):
        return search(queries, bank)

    @found.def_vmap
    def mapped(size, is_mapped, queries, bank):
        def one(args):
            given = iter(args)
            both = [next(given) if each else leaf for leaf, each in zip(leaves, which, strict=True)]
            return found(*jax.tree.unflatten(tree, both))

        def repeated(leaf, each):
            leaf = leaf if each else jnp.broadcast_to(leaf[None], (size, *leaf.shape))
            return leaf.reshape(-1, *leaf.shape[2:])

        leaves, tree = jax.tree.flatten((queries, bank))
        which = jax.tree.leaves(is_mapped)
        if any(jax.tree.leaves(is_mapped[1])):
            answer = lax.map(one, [leaf for leaf, each in zip(leaves, which, strict=True) if each])
        else:
            answer = found(jax.tree.map(repeated, queries, is_mapped[0]), bank)
            answer = jax.tree.map(lambda leaf: leaf.reshape(size, -1, *leaf.shape[1:]), answer)
        return answer, jax.tree.map(lambda _: True, answer)

    return found
