"""Sitawarin & Wagner's soft nearest neighbour loss on MNIST: 75-NN on relu3 (their Table 2).

    python attack.py configs/mnist_soft_neighbors.py                 trained here
    python attack.py configs/mnist_soft_neighbors.py:authors         the authors' weights
    python attack.py configs/mnist_soft_neighbors.py:authors_bare    the same, without neighbours

The network is trained by cross-entropy and the soft nearest neighbour loss of three layers, of weight
1: 4 epochs by Adam 1e-3, batch 128 (the authors' code: 50 epochs at 1e-4, batch 256, keeping the best
on validation).

The authors withdrew the paper's figures: a later attack of their own found less.
"""

from dataclasses import replace

from knn_jax import attacks, certificates, data, defenses, measures, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Optim


def recipe() -> Recipe:
    """75-NN on a network trained by the soft nearest neighbour loss."""
    return Recipe(
        name="mnist_soft_neighbors",
        data=data.TFDS("mnist"),
        defense=defenses.SoftNeighbors(nets.mnist_convnet(), weight=1.0),
        optim=Optim(epochs=4, drops=(3,)),
        classifier=fit.KNN(layers=("relu3",), k=75),
        attacks={
            "minimum_norm": attacks.MinimumNorm(steps=60, starts=6),
            "guided": attacks.Guided(),
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
                    "clean_acc": 0.994,
                    "mean_l2": 1.7131,
                    "acc_l2_1": 0.8558,
                    "acc_l2_2": 0.2661,
                    "acc_l2_3": 0.0547,
                },
                "output": {
                    "clean_acc": 0.9919,
                    "mean_l2": 1.2529,
                    "acc_l2_1": 0.6747,
                    "acc_l2_2": 0.0619,
                    "acc_l2_3": 0.0035,
                },
            }
        ),
    )


def authors() -> Recipe:
    """The authors' own weights, on images drawn at random."""
    base = recipe()
    return base.but(
        name="mnist_soft_neighbors_authors",
        defense=replace(base.defense, weights="mnist_snnl_weights.npz"),
        attacks={"minimum_norm": attacks.MinimumNorm()},
        certificates={},
        evaluate=replace(base.evaluate, image_seed=0),
    )


def authors_bare() -> Recipe:
    """The same weights and images, decided by the network's own output."""
    return authors().but(
        name="mnist_soft_neighbors_authors_bare", classifier=fit.Network(), measures={}
    )
