"""DkNN (Papernot & McDaniel 2018) on MNIST: 75-NN on all layers of Sitawarin & Wagner's Basic network.

    python attack.py configs/mnist_dknn.py            the network trained here
    python attack.py configs/mnist_dknn.py:authors    Sitawarin & Wagner's weights

Trains 6 epochs (Adam 1e-3, batch 128), searches 10,000 training images in each layer, attacks the
first 50 test images and compares their credibility to that of 1,000 clean ones, of these turned by a
quarter and of noise, calibrated by the 6,000 validation images."""

from dataclasses import replace

from knn_jax import attacks, data, defenses, measures, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Optim


def recipe() -> Recipe:
    """The network trained here."""
    return Recipe(
        name="mnist_dknn",
        data=data.TFDS("mnist"),
        defense=defenses.CrossEntropy(nets.mnist_convnet()),
        optim=Optim(epochs=6),
        classifier=fit.KNN(layers=("relu1", "relu2", "relu3", "fc"), k=75, rows=10_000),
        attacks={"minimum_norm": attacks.MinimumNorm(steps=60, starts=6)},
        measures={"credibility": measures.Credibility(images=1000)},
        evaluate=Evaluate(images=50, chunk=10),
        paper=papers.PAPERNOT_MCDANIEL,
    )


def authors() -> Recipe:
    """Sitawarin & Wagner's weights."""
    base = recipe()
    return base.but(
        name="mnist_dknn_authors", defense=replace(base.defense, weights="mnist_basic_weights.npz")
    )
