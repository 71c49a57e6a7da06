"""Serban, Poll & Visser's repulsive prototypes in small: a tenth of CIFAR-10, a narrow ResNet.

    python attack.py configs/cifar10_small_repulsive.py            repulsive prototypes
    python attack.py configs/cifar10_small_repulsive.py:softmax    the same network by cross-entropy
    python attack.py configs/cifar10_small_repulsive.py:at         and adversarially trained

10 epochs of 4,500 images by Adam. What the paper leaves open is told in `cifar10_repulsive.py`. No
paper reports this network."""

from dataclasses import replace

from knn_jax import attacks, data, defenses, neighbors, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Adversary, Optim

NET = nets.small_resnet()


def recipe() -> Recipe:
    """Prototypes repelled by the cosine."""
    return Recipe(
        name="cifar10_small_repulsive",
        data=data.TFDS("cifar10", train_images=5_000),
        defense=defenses.Repulsive(NET, metric=neighbors.Cosine()),
        optim=Optim(
            peak_lr=3e-3, batch_size=64, epochs=10, cycles=1, augment="crop", stopping_eps=2 / 255
        ),
        classifier=fit.Prototypes(),
        attacks={
            "pgd_loss": attacks.LossPGD(step_size=0.25),
            "pgd": attacks.PGD(step_size=0.25),
            "minimum_norm": attacks.MinimumNorm(steps=60, starts=6),
        },
        evaluate=Evaluate(
            images=200,
            norms=("linf",),
            radii_linf=(2 / 255, 4 / 255, 8 / 255, 12 / 255, 16 / 255),
            sources=("model", "substitute"),
        ),
        paper=papers.SERBAN,
    )


def softmax() -> Recipe:
    """The same network trained by cross-entropy."""
    base = recipe()
    return base.but(
        name="cifar10_small_softmax",
        defense=defenses.CrossEntropy(NET),
        optim=replace(base.optim, stopping_eps=None),
        classifier=fit.Network(),
        evaluate=replace(base.evaluate, sources=("model",)),
    )


def at() -> Recipe:
    """The same network trained adversarially."""
    base = recipe()
    adversary = Adversary(norm="linf", eps=0.03137, steps=5, step_size=0.0125)
    return base.but(
        name="cifar10_small_at",
        defense=defenses.CrossEntropy(NET, adversary=adversary),
        classifier=fit.Network(),
        evaluate=replace(base.evaluate, sources=("model",)),
    )
