"""Sitawarin & Wagner's input mixup on MNIST: 75-NN on relu3 (their Table 2).

    python attack.py configs/mnist_input_mixup.py                 trained here
    python attack.py configs/mnist_input_mixup.py:authors         the authors' weights
    python attack.py configs/mnist_input_mixup.py:authors_bare    the same, without neighbours

The network is trained by cross-entropy on interpolated images and labels: 4 epochs by Adam 1e-3, batch
128 (the authors' code: 50 epochs at 1e-4).

The authors withdrew the paper's figures: a later attack of their own found less.
"""

from dataclasses import replace

from knn_jax import attacks, certificates, data, defenses, measures, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Optim


def recipe() -> Recipe:
    """75-NN on a network trained by input mixup."""
    return Recipe(
        name="mnist_input_mixup",
        data=data.TFDS("mnist"),
        defense=defenses.InputMixup(nets.mnist_convnet()),
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
                    "clean_acc": 0.9812,
                    "mean_l2": 2.0682,
                    "acc_l2_1": 0.8133,
                    "acc_l2_2": 0.5007,
                    "acc_l2_3": 0.1729,
                },
                "output": {
                    "clean_acc": 0.9887,
                    "mean_l2": 0.6051,
                    "acc_l2_1": 0.0295,
                    "acc_l2_2": 0.0087,
                    "acc_l2_3": 0.0087,
                },
            }
        ),
    )


def authors() -> Recipe:
    """The authors' own weights, on images drawn at random."""
    base = recipe()
    return base.but(
        name="mnist_input_mixup_authors",
        defense=replace(base.defense, weights="mnist_input_mixup_weights.npz"),
        attacks={"minimum_norm": attacks.MinimumNorm()},
        certificates={},
        evaluate=replace(base.evaluate, image_seed=0),
    )


def authors_bare() -> Recipe:
    """The same weights and images, decided by the network's own output."""
    return authors().but(name="mnist_input_mixup_authors_bare", classifier=fit.Network(), measures={})
