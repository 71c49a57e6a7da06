"""Zhao & Cho's RaCNN on CIFAR-10: K = 10, local mixup (RaCNN-K10-mixup of their Table 1).

    python attack.py configs/cifar10_racnn.py             60 epochs: an accelerator's work
    python attack.py configs/cifar10_racnn.py:k5          5 neighbours
    python attack.py configs/cifar10_racnn.py:ce          without mixup
    python attack.py configs/cifar10_racnn.py:baseline    the network retrieved by, alone

A step takes 11 passes of the network for each image (0.7 GFLOP each, forward and backward), an epoch
of 45,000 images (the paper: 50,000) some 0.35 PFLOP. The paper names neither epochs, batch nor rate,
nor how many steps of cross-entropy there are to five of local mixup: 60 epochs, batch 128, Adam 1e-3
and a tenth of it after 50, one step. Its augmentation is not named either; here it is Sitawarin &
Wagner's.

Scenario 1 of the paper is `on held`, scenario 2 `on network`; without either the retrieval is inside
the gradient, which the paper never tried. Its measure is the squared L2 norm over the number of
pixels: the radii are those of its 1e-5, 2e-5, 8e-5, 1e-4, 2e-4 and 4e-4. It reports clean accuracies
of 0.8080 (K10-mixup), 0.7952 (K10), 0.7560 (K5-mixup), 0.7257 (K5) and 0.8515 (baseline)."""

from dataclasses import replace

from knn_jax import attacks, data, defenses, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Optim


def recipe() -> Recipe:
    """10 neighbours, local mixup."""
    return Recipe(
        name="cifar10_racnn",
        data=data.TFDS("cifar10"),
        defense=defenses.RaCNN(nets.cifar10_racnn(), retriever=nets.cifar10_all_conv(), layer="conv5"),
        optim=Optim(epochs=60, drops=(50,), augment="affine"),
        classifier=fit.Retrieval(),
        attacks={
            "minimum_norm": attacks.MinimumNorm(steps=60, starts=6),
            "fgsm": attacks.FGSM(),
            "ifgsm": attacks.IFGSM(),
            "deepfool": attacks.DeepFool(),
            "lbfgs": attacks.LBFGS(),
            "boundary": attacks.Boundary(),
        },
        evaluate=Evaluate(
            images=1000,
            radii=(0.1753, 0.2479, 0.4957, 0.5543, 0.7838, 1.1085),
            sources=("model", "held", "network"),
        ),
        paper=papers.ZHAO_CHO.reports(
            {
                "conv5": {"clean_acc": 0.808},
                "conv5, fgsm on network": {
                    "acc_l2_0.5543": 0.53,
                    "acc_l2_0.7838": 0.4401,
                    "acc_l2_1.1085": 0.3347,
                },
                "conv5, ifgsm on network": {
                    "acc_l2_0.1753": 0.7987,
                    "acc_l2_0.2479": 0.7972,
                    "acc_l2_0.4957": 0.5436,
                },
                "conv5, deepfool on network": {
                    "acc_l2_0.1753": 0.7363,
                    "acc_l2_0.2479": 0.7235,
                    "acc_l2_0.4957": 0.7126,
                },
            }
        ),
    )


def k5() -> Recipe:
    """5 neighbours, local mixup."""
    base = recipe()
    defense = replace(base.defense, neighbors=5)
    return base.but(name="cifar10_racnn_k5", defense=defense, paper=None)


def ce() -> Recipe:
    """10 neighbours, cross-entropy alone."""
    base = recipe()
    defense = replace(base.defense, mixup_steps=0)
    return base.but(name="cifar10_racnn_ce", defense=defense, paper=None)


def baseline() -> Recipe:
    """The network without retrieval."""
    base = recipe()
    return base.but(
        name="cifar10_racnn_baseline",
        defense=defenses.CrossEntropy(nets.cifar10_all_conv()),
        classifier=fit.Network(),
        evaluate=replace(base.evaluate, sources=("model",)),
        paper=None,
    )
