"""Serban, Poll & Visser's repulsive prototypes on MNIST: a small VGG, with baselines.

    python attack.py configs/mnist_repulsive.py                by the cosine
    python attack.py configs/mnist_repulsive.py:l2             by the L2 distance; :linf by Linf
    python attack.py configs/mnist_repulsive.py:softmax        the same network by cross-entropy
    python attack.py configs/mnist_repulsive.py:softmax_at     and adversarially trained

8 epochs of 9,000 images by Adam, without augmentation. What the paper leaves open is told in
`cifar10_repulsive.py`; it has no figures for MNIST.
"""

from dataclasses import replace

from knn_jax import attacks, certificates, data, defenses, neighbors, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Adversary, Optim

NET = nets.mnist_vgg()


def recipe() -> Recipe:
    """Prototypes repelled by the cosine."""
    return Recipe(
        name="mnist_repulsive",
        data=data.TFDS("mnist", train_images=10_000),
        defense=defenses.Repulsive(NET, metric=neighbors.Cosine()),
        optim=Optim(epochs=8, cycles=1, stopping_eps=0.1),
        classifier=fit.Prototypes(),
        attacks={
            "pgd_loss": attacks.LossPGD(step_size=0.25),
            "pgd": attacks.PGD(step_size=0.25),
            "minimum_norm": attacks.MinimumNorm(steps=60, starts=6),
        },
        evaluate=Evaluate(
            images=500,
            norms=("linf",),
            radii_linf=(0.05, 0.1, 0.15, 0.2, 0.3),
            sources=("model", "substitute"),
        ),
        paper=papers.SERBAN,
    )


def l2() -> Recipe:
    """By the L2 distance, as eq. 6 is written."""
    return _white_box("mnist_repulsive_l2").but(
        defense=defenses.Repulsive(NET, metric=neighbors.Euclidean()),
        certificates={
            "margin": certificates.Margin(),
            "voronoi": certificates.Voronoi(own=16, other=1024),
        },
    )


def linf() -> Recipe:
    """By the Linf distance: the network's own output decides."""
    return _white_box("mnist_repulsive_linf").but(
        defense=defenses.Repulsive(NET, metric=neighbors.Chebyshev()), classifier=fit.Network()
    )


def softmax() -> Recipe:
    """The same network trained by cross-entropy."""
    return _white_box("mnist_softmax").but(defense=defenses.CrossEntropy(NET), classifier=fit.Network())


def softmax_at() -> Recipe:
    """The same network trained adversarially."""
    adversary = Adversary(norm="linf", eps=0.2, steps=5, step_size=0.08)
    return _white_box("mnist_softmax_at").but(
        defense=defenses.CrossEntropy(NET, adversary=adversary), classifier=fit.Network()
    )


def d50() -> Recipe:
    """Prototypes in 50 dimensions (their Table 1)."""
    return _dimensions(50)


def d200() -> Recipe:
    """Prototypes in 200 dimensions (their Table 1)."""
    return _dimensions(200)


def doubled() -> Recipe:
    """minimum_norm with twice the steps, on the network of this recipe."""
    return _white_box("mnist_repulsive_doubled").but(
        attacks={"minimum_norm": attacks.MinimumNorm(steps=120, starts=6)}
    )


def pgd100() -> Recipe:
    """100 steps up the loss, on the network of this recipe."""
    return _white_box("mnist_repulsive_pgd100").but(
        attacks={"pgd_loss": attacks.LossPGD(steps=100, step_size=0.25)}
    )


def _white_box(name: str) -> Recipe:
    base = recipe()
    return base.but(name=name, evaluate=replace(base.evaluate, images=200, sources=("model",)))


def _dimensions(dim: int) -> Recipe:
    base = _white_box(f"mnist_repulsive_d{dim}")
    return base.but(defense=replace(base.defense, dim=dim))
