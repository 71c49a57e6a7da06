"""The rows of Qian, An & Su's Table 2 on CIFAR-10 in small: layers of 286 numbers in place of 2,078.

    python attack.py configs/cifar10_small_idresnet.py      FULL
    python attack.py configs/cifar10_small_idresnet.py:e    each layer with weights of its own
    python attack.py configs/cifar10_small_idresnet.py:d    without the identity; :c neither
    python attack.py configs/cifar10_small_idresnet.py:b    a network that classifies; :a the same as :d

What stands for what the paper leaves open is told in `cifar10_idresnet.py`. The paper's figures are of
the full width: clean accuracies of 0.5427 (A), 0.5473 (B), 0.5334 (C), 0.5267 (D), 0.5424 (E) and
0.5338 (FULL); within 8/255 0.0725, 0.0589, 0.3738, 0.3909, 0.4448 and 0.4548."""

from dataclasses import replace

from knn_jax import attacks, certificates, data, defenses, measures, neighbors, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Optim

NET = nets.small_idresnet()


def recipe() -> Recipe:
    """FULL: one set of weights for all layers, begun as the identity."""
    return Recipe(
        name="cifar10_small_idresnet",
        data=data.TFDS("cifar10", valid_fraction=0.002),
        defense=defenses.IdResNet(NET, pull=1e-7),
        optim=Optim(epochs=20, batch_size=2048, drops=(15,)),
        classifier=fit.KNN(layers=("cl",), k=800, metric=neighbors.Subspaces(2)),
        attacks={
            "kfgsm": attacks.KFGSM(steps=30, step_size=0.1),
            "minimum_norm": attacks.MinimumNorm(steps=60, starts=6),
        },
        evaluate=Evaluate(
            images=200,
            norms=("linf",),
            radii_linf=(0.247 * 8 / 255, 0.247 * 16 / 255, 8 / 255, 16 / 255),
            chunk=100,
        ),
        paper=papers.QIAN_AN_SU,
    )


def e() -> Recipe:
    """Weights of its own for each layer."""
    return _of("e", replace(NET, shared=False))


def d() -> Recipe:
    """Without the identity: a simple MLP."""
    return _of("d", replace(NET, identity=False))


def c() -> Recipe:
    """Neither."""
    return _of("c", replace(NET, shared=False, identity=False))


def b() -> Recipe:
    """A network that classifies."""
    return _classifies("b", replace(NET, subspaces=1, dim=10, shared=False))


def a() -> Recipe:
    """A network that classifies, without the identity."""
    return _classifies("a", replace(NET, subspaces=1, dim=10, shared=False, identity=False))


def clusters() -> Recipe:
    """Four subspaces of three dimensions, drawn (section 3.6)."""
    base = recipe()
    return base.but(
        name="cifar10_small_idresnet_clusters",
        defense=defenses.IdResNet(replace(NET, subspaces=4, dim=3), pull=1e-7, noise=None),
        classifier=fit.KNN(layers=("cl",), k=800, metric=neighbors.Subspaces(4)),
        measures={"points": measures.Points(images=5000)},
    )


def smoothed() -> Recipe:
    """FULL, certified by randomised smoothing; it takes the `--workdir` of FULL."""
    base = recipe()
    return base.but(
        name="cifar10_small_idresnet_smoothed",
        certificates={"smoothing": certificates.Smoothing(sigma=0.25, samples=2000)},
        evaluate=replace(base.evaluate, certified_images=200),
    )


def _of(row: str, net: nets.IdResNet) -> Recipe:
    defense = defenses.IdResNet(net, pull=1e-7)
    return recipe().but(name=f"cifar10_small_idresnet_{row}", defense=defense)


def _classifies(row: str, net: nets.IdResNet) -> Recipe:
    return recipe().but(
        name=f"cifar10_small_idresnet_{row}",
        defense=defenses.Noisy(net),
        classifier=fit.Network(),
        attacks={
            "pgd_loss": attacks.LossPGD(steps=30, step_size=0.1),
            "pgd": attacks.PGD(steps=30, step_size=0.1),
            "minimum_norm": attacks.MinimumNorm(steps=60, starts=6),
        },
    )
