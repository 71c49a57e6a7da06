"""Outcomes of attacks and certificates worked out by hand, for reports and tables."""

import jax.numpy as jnp
import numpy as np

from knn_jax import classifiers, config, data
from knn_jax.chunks import Outcome
from knn_jax.recipes import Defended

# Five test images; the fourth is misclassified, the third resists the attack.
LABELS = np.array([0, 1, 0, 1, 0], np.int32)
CLEAN = np.array([0, 1, 0, 0, 0], np.int32)
NORM = np.array([1.0, 2.0, np.inf, 0.0, 0.5], np.float32)
RADIUS = np.array([0.5, 1.5, 3.0, 0.0, 0.25], np.float32)

RECIPE = config.Config(
    name="by <hand>",
    net=config.Net(name="pixels"),
    classifier=config.Classifier(layers=("pixels",), k=1),
    attack=config.Attack(radii=(0.5, 0.75, 1.0, 5.0), radii_linf=(0.5, 2.0)),
    reported={"pixels": {"mean_l2": 2.1054, "acc_l2_1": 0.91}},
)
L2, LINF = ("minimum_norm", "l2"), ("minimum_norm", "linf")


def defended():
    """A classifier of six random rows, by one neighbour."""
    rng = np.random.default_rng(0)
    images = rng.random((6, 3, 3, 1), np.float32)
    labels = np.arange(6, dtype=np.int32) % 2
    test = data.Split(rng.random((5, 3, 3, 1), np.float32), LABELS)
    dataset = data.Dataset(data.Split(images, labels), data.Split(images, labels), test, 2)
    model = classifiers.knn(
        lambda x: x.reshape(len(x), -1), jnp.asarray(images), jnp.asarray(labels), k=1
    )
    return Defended(dataset, model, 1.0, "fingerprint")


def attacked(norm=NORM, l2=None):
    arrays = {
        "image": np.full((len(norm), 3, 3, 1), 0.5, np.float32),
        "norm": norm,
        "l2": norm if l2 is None else l2,
        "success": np.isfinite(norm),
        "gradients": np.full(len(norm), 7),
        "adversarial": 1 - CLEAN[: len(norm)],
    }
    return Outcome(arrays, 1.25, 0.5)


def certified(radius=RADIUS):
    return Outcome({"radius": radius}, 0.25, 0.125)
