"""How many images are attacked at once, and what each of them counts and draws."""

import jax
from jaxtyping import Array, Int, PyTree

from knn_jax.classifiers import Images, Surrogate

REFERENCES = 2**26  # floats of references that a batch of images may hold: 256 MB
BATCH = 128  # images attacked at once, where these allow
SHARE = 67  # references of each class, in per cent of k: a class wins with fewer than k neighbours


def batch_size(model: Surrogate, x: Images, references: int) -> int:
    """How many examples to attack at once: up to 128, as the references' memory allows."""
    return max_batch(jax.eval_shape(lambda m, x: m.references(x, references), model, x[:1]))


def max_batch(one: PyTree) -> int:
    """How many examples to attack at once if arrays of the shapes of `one` are held for each."""
    size = sum(leaf.size for leaf in jax.tree.leaves(one))
    return max(1, min(BATCH, REFERENCES // max(1, size)))


def references(model: Surrogate) -> int:
    """How many references of each class the surrogate votes with."""
    return -(-SHARE * model.k // 100)


def average(counts: Int[Array, " batch"]) -> Int[Array, ""]:
    """The mean over the examples, rounded up."""
    return -(-counts.sum() // len(counts))


def keys(key: Array, count: Int[Array, " batch"]) -> Array:
    """A key for each example by its place, the same in batches of any size."""
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(count)
