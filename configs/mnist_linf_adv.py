"""Sitawarin & Wagner's Linf-Adv on MNIST: 75-NN on a network trained adversarially in Linf (Table 3).

    python attack.py configs/mnist_linf_adv.py          20 epochs, hours of CPU
    python attack.py configs/mnist_linf_adv.py:small    20,000 images, 11 minutes of one core

Only perturbed images are trained on: 40 steps of 0.01 in the ball of radius 0.3. Adam 1e-3, batch 128
(the authors do not give the epochs of this row; L2-Adv has 70).

The paper's mean L2 norm is of the boundary attack on 100 images: its own attack failed there.
"""

from dataclasses import replace

from knn_jax import attacks, certificates, data, defenses, measures, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Adversary, Optim


def recipe() -> Recipe:
    """75-NN on a network trained adversarially in Linf."""
    return Recipe(
        name="mnist_linf_adv",
        data=data.TFDS("mnist"),
        defense=defenses.CrossEntropy(
            nets.mnist_convnet(), adversary=Adversary(norm="linf", eps=0.3, steps=40, step_size=0.01)
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
                    "clean_acc": 0.9653,
                    "mean_l2": 2.0,
                }
            }
        ),
    )


def small() -> Recipe:
    """20,000 images, 8 epochs and one step from a uniform start (Wong, Rice & Kolter 2020)."""
    base = recipe().unreported()
    adversary = Adversary(norm="linf", eps=0.3, steps=1, step_size=0.375)
    return base.but(
        name="mnist_linf_adv_small",
        data=data.TFDS("mnist", train_images=20_000),
        defense=replace(base.defense, adversary=adversary),
        optim=replace(base.optim, epochs=8, drops=(6,), batch_size=64),
        attacks=base.attacks | {"guided": attacks.Guided()},
        evaluate=replace(base.evaluate, images=100),
    )
