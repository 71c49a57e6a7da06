"""Sitawarin & Wagner's manifold mixup on MNIST: 75-NN on relu3 (their Table 2).

    python attack.py configs/mnist_manifold_mixup.py                 trained here
    python attack.py configs/mnist_manifold_mixup.py:authors         the authors' weights
    python attack.py configs/mnist_manifold_mixup.py:authors_bare    the same, without neighbours

The network is trained by cross-entropy, interpolated before a layer that is drawn for each batch: 4
epochs by Adam 1e-3, batch 128 (the authors' code: 50 epochs at 1e-4; their saved network has a clean
accuracy of 0.9860).

The authors withdrew the paper's figures: a later attack of their own found less.
"""

from dataclasses import replace

from knn_jax import attacks, certificates, data, defenses, measures, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Optim


def recipe() -> Recipe:
    """75-NN on a network trained by manifold mixup."""
    return Recipe(
        name="mnist_manifold_mixup",
        data=data.TFDS("mnist"),
        defense=defenses.ManifoldMixup(nets.mnist_convnet()),
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
                    "clean_acc": 0.9838,
                    "mean_l2": 2.2276,
                    "acc_l2_1": 0.902,
                    "acc_l2_2": 0.5272,
                    "acc_l2_3": 0.179,
                },
                "output": {
                    "clean_acc": 0.9917,
                    "mean_l2": 0.9749,
                    "acc_l2_1": 0.3942,
                    "acc_l2_2": 0.0042,
                    "acc_l2_3": 0.0018,
                },
            }
        ),
    )


def authors() -> Recipe:
    """The authors' own weights, on images drawn at random."""
    base = recipe()
    return base.but(
        name="mnist_manifold_mixup_authors",
        defense=replace(base.defense, weights="mnist_hidden_mixup_weights.npz"),
        attacks={"minimum_norm": attacks.MinimumNorm()},
        certificates={},
        evaluate=replace(base.evaluate, image_seed=0),
    )


def authors_bare() -> Recipe:
    """The same weights and images, decided by the network's own output."""
    return authors().but(
        name="mnist_manifold_mixup_authors_bare", classifier=fit.Network(), measures={}
    )
