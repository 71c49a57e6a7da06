"""Sitawarin & Wagner's L2-Adv-AE on MNIST: 75-NN on an adversarially trained autoencoder (Table 3).

    python attack.py configs/mnist_l2_adv_autoencoder.py          20 epochs, hours of CPU
    python attack.py configs/mnist_l2_adv_autoencoder.py:small    6,000 images, 7 minutes of one core

The network restores the clean image from a perturbed one, 40 steps of 0.1; `--defense.adversary.eps 4`
keeps it in a ball. Adam 1e-3, batch 128 (the authors' code: 70 epochs, the rate falling at 40, 50,
60).

The authors withdrew the paper's figures: a later attack of their own found less.
"""

from dataclasses import replace

from knn_jax import attacks, certificates, data, defenses, measures, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Adversary, Optim


def recipe() -> Recipe:
    """75-NN on the encoder of an adversarially trained autoencoder."""
    return Recipe(
        name="mnist_l2_adv_autoencoder",
        data=data.TFDS("mnist"),
        defense=defenses.Autoencoder(
            nets.mnist_autoencoder(), adversary=Adversary(norm="l2", steps=40, step_size=0.1)
        ),
        optim=Optim(epochs=20, drops=(14, 18)),
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
                    "clean_acc": 0.9641,
                    "mean_l2": 3.0198,
                    "acc_l2_1": 0.9323,
                    "acc_l2_2": 0.8112,
                    "acc_l2_3": 0.4899,
                }
            }
        ),
    )


def small() -> Recipe:
    """6,000 images, 6 epochs and 10 steps of the adversary."""
    base = recipe().unreported()
    return base.but(
        name="mnist_l2_adv_autoencoder_small",
        data=data.TFDS("mnist", train_images=6_000),
        defense=replace(base.defense, adversary=Adversary(norm="l2", steps=10, step_size=0.1)),
        optim=replace(base.optim, epochs=6, drops=(5,), batch_size=64),
        attacks=base.attacks | {"guided": attacks.Guided()},
        evaluate=replace(base.evaluate, images=100),
    )
