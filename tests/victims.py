"""What the tests of attacks share: a classifier of digits, features that count, norms in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from knn_jax import classifiers


def flat(x):
    return x.reshape(x.shape[0], -1)


def lengths(norm, delta):
    """The norm of each example, in float64."""
    order = {"l2": 2, "linf": np.inf}[norm]
    return np.linalg.norm(np.asarray(delta, np.float64).reshape(len(delta), -1), order, 1)


def digits():
    """A 3-NN of 200 digits, and 30 others with their labels."""
    bunch = load_digits()
    images = jnp.asarray(bunch.images[..., None] / 16, jnp.float32)
    labels = jnp.asarray(bunch.target, jnp.int32)
    return classifiers.knn(flat, images[:200], labels[:200], k=3), images[200:230], labels[200:230]


def counted():
    """Pixels as features, and a count of their traces and, at run time, of the passes through them."""
    passes = {"trace": 0, "forward": 0, "gradient": 0}

    def report(kind):
        passes[kind] += 1

    @jax.custom_vjp
    def features(x):
        report("trace")
        jax.debug.callback(report, "forward")
        return flat(x)

    def backward(shape, cotangent):
        jax.debug.callback(report, "gradient")
        return (cotangent.reshape(shape),)

    features.defvjp(lambda x: (flat(x), x.shape), backward)
    return features, passes
