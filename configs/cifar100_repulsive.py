"""Serban, Poll & Visser's repulsive prototypes on CIFAR-100: ResNet-18, D = 500 (their Table 3).

    python attack.py configs/cifar100_repulsive.py    106 epochs: an accelerator's work

What the paper leaves open is told in `cifar10_repulsive.py`. It says that D is 50 times the classes,
which would be 5,000, to stay below the 512 numbers before the last layer: here it is five times.
"""

from dataclasses import replace

from knn_jax import attacks, data, defenses, neighbors, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Optim


def recipe() -> Recipe:
    """Prototypes repelled by the cosine."""
    return Recipe(
        name="cifar100_repulsive",
        data=data.TFDS("cifar100"),
        defense=defenses.Repulsive(
            replace(nets.cifar_resnet18(), half=True), metric=neighbors.Cosine(), dim=500
        ),
        optim=Optim(
            optimizer="sgd",
            peak_lr=0.02,
            epochs=106,
            cycles=1,
            weight_decay=5e-4,
            augment="crop",
            stopping_eps=8 / 255,
        ),
        classifier=fit.Prototypes(),
        attacks={
            "pgd_loss": attacks.LossPGD(steps=100, step_size=0.1),
            "pgd": attacks.PGD(steps=100, step_size=0.1),
            "minimum_norm": attacks.MinimumNorm(steps=60, starts=6),
        },
        evaluate=Evaluate(
            images=1000,
            norms=("linf",),
            radii_linf=(8 / 255, 10 / 255, 12 / 255, 14 / 255, 16 / 255),
            sources=("model", "substitute"),
        ),
        paper=papers.SERBAN.reports(
            {
                "prototypes": {"clean_acc": 0.717, "acc_linf_0.03137": 0.2},
                "prototypes, pgd_loss on substitute": {"acc_linf_0.03137": 0.362},
            }
        ),
    )
