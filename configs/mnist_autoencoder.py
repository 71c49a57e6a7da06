"""Sitawarin & Wagner's autoencoder on MNIST: 75-NN on relu3 of its encoder (their Table 2).

    python attack.py configs/mnist_autoencoder.py

The network is trained by the squared error of the reconstruction, summed over pixels, without labels:
4 epochs by Adam 1e-3, batch 128 (the authors' code: 100 epochs).

The authors withdrew the paper's figures: a later attack of their own found less.
"""

from knn_jax import attacks, certificates, data, defenses, measures, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Optim


def recipe() -> Recipe:
    """75-NN on the encoder."""
    return Recipe(
        name="mnist_autoencoder",
        data=data.TFDS("mnist"),
        defense=defenses.Autoencoder(nets.mnist_autoencoder()),
        optim=Optim(epochs=4, drops=(3,)),
        classifier=fit.KNN(layers=("relu3",), k=75),
        attacks={
            "minimum_norm": attacks.MinimumNorm(steps=60, starts=6),
            "guided": attacks.Guided(constant=0.1, steps=1000),
        },
        certificates={
            "margin": certificates.Margin(),
            "voronoi": certificates.Voronoi(own=16, other=1024),
        },
        measures={
            "local_dimension": measures.LocalDimension(images=200),
            "jacobian_norm": measures.JacobianNorm(images=200),
        },
        evaluate=Evaluate(images=200, baseline_images=20, chunk=50),
        paper=papers.SITAWARIN_WAGNER.reports(
            {
                "relu3": {
                    "clean_acc": 0.9509,
                    "mean_l2": 3.0717,
                    "acc_l2_1": 0.8855,
                    "acc_l2_2": 0.7449,
                    "acc_l2_3": 0.5336,
                }
            }
        ),
    )
