"""kNN on a small network trained on scikit-learn's 1,797 digits: the default, and the demo.

    python attack.py configs/digits.py

Everything is at hand: nothing is downloaded. No paper reports these digits.
"""

from knn_jax import attacks, certificates, data, defenses, nets
from knn_jax.recipe import Evaluate, Recipe, fit
from knn_jax.training import Optim


def recipe() -> Recipe:
    """5-NN on the third convolution."""
    return Recipe(
        name="digits",
        data=data.Digits(),
        defense=defenses.CrossEntropy(nets.digits_convnet()),
        optim=Optim(epochs=30),
        classifier=fit.KNN(layers=("relu3",), k=5),
        attacks={"minimum_norm": attacks.MinimumNorm()},
        certificates={
            "margin": certificates.Margin(),
            "voronoi": certificates.Voronoi(own=16, other=1024),
        },
        evaluate=Evaluate(
            images=200,
            norms=("l2", "linf"),
            radii=(0.05, 0.1, 0.25, 0.5, 1.0),
            radii_linf=(0.05, 0.1, 0.15, 0.2),
        ),
    )
