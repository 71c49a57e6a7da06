"""Qian, An & Su's IdResNet on MNIST: 800-NN by the sum of distances in two subspaces.

    python attack.py configs/mnist_idresnet.py    39 minutes on half of a CPU core

What stands for what the paper leaves open is told in `cifar10_idresnet.py`; the paper has no figures
for MNIST. Pixels that hardly vary are divided by 0.1, which is more than their deviation."""

from knn_jax import attacks, data, defenses, neighbors, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Optim


def recipe() -> Recipe:
    """FULL of the paper's Table 2, on MNIST."""
    return Recipe(
        name="mnist_idresnet",
        data=data.TFDS("mnist"),
        defense=defenses.IdResNet(nets.mnist_idresnet(), pull=1e-7),
        optim=Optim(epochs=20, batch_size=2048, drops=(15,)),
        classifier=fit.KNN(layers=("cl",), k=800, metric=neighbors.Subspaces(2)),
        attacks={
            "kfgsm": attacks.KFGSM(steps=30, step_size=0.1),
            "pgd": attacks.PGD(steps=30, step_size=0.1),
            "minimum_norm": attacks.MinimumNorm(steps=60, starts=6),
        },
        evaluate=Evaluate(images=200, norms=("linf",), chunk=50),
        paper=papers.QIAN_AN_SU,
    )
