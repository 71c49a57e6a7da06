"""Sitawarin & Wagner's rotation prediction on MNIST: 75-NN on relu3 (their Table 2).

    python attack.py configs/mnist_rotation.py            trained here
    python attack.py configs/mnist_rotation.py:authors    the authors' weights

The network is trained by cross-entropy to tell by which of four angles an image was turned, without
labels; an epoch has every image four times: 2 epochs by Adam 1e-3, batch 128 (the authors' code: 200
epochs of 32 images in four orientations a batch).

The authors withdrew the paper's figures: a later attack of their own found less.
"""

from dataclasses import replace

from knn_jax import attacks, certificates, data, defenses, measures, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Optim


def recipe() -> Recipe:
    """75-NN on a network that predicts rotations."""
    return Recipe(
        name="mnist_rotation",
        data=data.TFDS("mnist"),
        defense=defenses.Rotation(nets.mnist_convnet()),
        optim=Optim(epochs=2, drops=(1,)),
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
                    "clean_acc": 0.9129,
                    "mean_l2": 2.2157,
                    "acc_l2_1": 0.7532,
                    "acc_l2_2": 0.483,
                    "acc_l2_3": 0.199,
                }
            }
        ),
    )


def authors() -> Recipe:
    """The authors' own weights, on images drawn at random."""
    base = recipe()
    return base.but(
        name="mnist_rotation_authors",
        defense=replace(base.defense, weights="mnist_rot_weights.npz"),
        attacks={"minimum_norm": attacks.MinimumNorm()},
        certificates={},
        evaluate=replace(base.evaluate, image_seed=0),
    )
