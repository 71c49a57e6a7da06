"""Sitawarin & Wagner's certified defense on MNIST: 1-NN on a 1-Lipschitz autoencoder (their Table 6).

    python certify.py configs/mnist_lipschitz.py             1-NN on relu1
    python attack.py configs/mnist_lipschitz.py:relu1        attacked besides
    python certify.py configs/mnist_lipschitz.py:relu2       on relu2; also :relu3 and :bottleneck

Every variant finds the network trained in its own workdir; give all of them one `--workdir`. Layers of
non-overlapping patches, made near-isometries, stand in place of the paper's scaled convolutions
(`--defense.net.sweeps 0` divides each matrix by a bound of its norm instead, as there). 10 epochs by
Adam 1e-3, batch 256.

The paper's figures are of its approximate search, over correctly classified images.
"""

from dataclasses import replace

from knn_jax import attacks, certificates, data, defenses, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Optim

TABLE = ("clean_acc", "mean_radius", "cert_0.5", "cert_1", "cert_1.5", "cert_2")
REPORTED = {
    "relu1": (0.9701, 0.8576, 0.8, 0.3574, 0.0663, 0.0034),
    "relu2": (0.9723, 0.7821, 0.7648, 0.2677, 0.0379, 0.0005),
    "relu3": (0.9745, 0.4295, 0.3509, 0.0013, 0.0, 0.0),
    "bottleneck": (0.9752, 0.3909, 0.2668, 0.0001, 0.0, 0.0),
}
ATTACKED = {"relu1": {"mean_l2": 1.82}}  # by the paper's attack, section 6.2


def recipe() -> Recipe:
    """1-NN on relu1."""
    return Recipe(
        name="mnist_lipschitz",
        data=data.TFDS("mnist"),
        defense=defenses.LipschitzAutoencoder(
            nets.mnist_lipschitz_autoencoder(), weight=10.0, apart=30.0
        ),
        optim=Optim(epochs=10, drops=(7, 9), batch_size=256),
        classifier=fit.KNN(layers=("relu1",), k=1),
        attacks={"minimum_norm": attacks.MinimumNorm(steps=60, starts=6)},
        certificates={
            "margin": certificates.Margin(),
            "voronoi": certificates.Voronoi(own=16, other=1024),
            "exact": certificates.Exact(),
        },
        evaluate=Evaluate(
            images=200, certified_images=10_000, radii=(0.5, 1.0, 1.5, 1.58, 2.0), chunk=50
        ),
        paper=papers.SITAWARIN_WAGNER.reports(
            {
                layer: dict(zip(TABLE, row, strict=True)) | ATTACKED.get(layer, {})
                for layer, row in REPORTED.items()
            }
        ),
    )


def relu1() -> Recipe:
    """Attacked by the paper's attack too, which draws near one row: one is a vote."""
    base = recipe()
    return base.but(
        name="mnist_lipschitz_relu1",
        attacks=base.attacks | {"guided": attacks.Guided(guides=1)},
        evaluate=replace(base.evaluate, images=100),
    )


def relu2() -> Recipe:
    """1-NN on relu2."""
    return _on("relu2")


def relu3() -> Recipe:
    """1-NN on relu3."""
    return _on("relu3")


def bottleneck() -> Recipe:
    """1-NN on the bottleneck."""
    return _on("bottleneck")


def _on(layer: str) -> Recipe:
    return recipe().but(name=f"mnist_lipschitz_{layer}", classifier=fit.KNN(layers=(layer,), k=1))
