"""Wang et al.'s ASK-Def on CIFAR-10: DkNN on conv3 and conv4 of a VGG16 (their Table 6).

    python attack.py configs/cifar10_ask.py         200 epochs: an accelerator's work
    python attack.py configs/cifar10_ask.py:few     2,000 images, 9 epochs: an hour of one CPU core

45,000 training images (the paper: 50,000), SGD at 0.1, a tenth of it after 100 epochs, 10 steps within
4/255 and 10 within 8/255, images cropped and mirrored. A forward pass of the VGG16 takes 0.6 GFLOP an
image.

The paper's studies: layers by `--classifier.layers` (Table 3) and `--attacks.ask.layers` (Table 4),
`--attacks.ask.temperature`, `--attacks.ask.k` and `--attacks.ask.others` (Figure 4, Tables 11 and 12),
`--attacks.ask.targeted` (Table 9), `--attacks.ask.drawn` (Table 10), `--attacks.ask.steps` (Table 14).

Table 6 reports, for all 10,000 test images under ASK-Atk within 8/255, accuracies of 0.459 on both
layers, 0.427 on conv3 and 0.436 on conv4.
"""

from dataclasses import replace

from knn_jax import attacks, data, defenses, neighbors, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Adversary, Optim

NET = nets.cifar10_vgg()


def recipe() -> Recipe:
    """ASK-Def, as the paper trains it."""
    return Recipe(
        name="cifar10_ask",
        data=data.TFDS("cifar10"),
        defense=defenses.ASK(
            NET,
            layers=("conv4",),
            adversary=Adversary(norm="linf", eps=4 / 255, steps=10, step_size=2 / 255),
            eps_ask=8 / 255,
        ),
        optim=Optim(
            optimizer="sgd", peak_lr=0.1, epochs=200, drops=(100,), weight_decay=2e-4, augment="crop"
        ),
        classifier=fit.KNN(layers=("conv3", "conv4"), k=5, metric=neighbors.Cosine(), rows=20_000),
        attacks={
            "ask": attacks.ASK(tune=500),
            "dknn": attacks.DKNN(),
            "adv_knn": attacks.AdvKNN(),
            "pgd": attacks.PGD(step_size=0.25),
        },
        evaluate=Evaluate(
            images=10_000,
            norms=("linf",),
            radii_linf=(2 / 255, 4 / 255, 6 / 255, 8 / 255),
            chunk=500,
        ),
        paper=papers.WANG.reports(
            {
                "conv3+conv4": {"acc_linf_0.03137": 0.459},
                "conv3": {"acc_linf_0.03137": 0.427},
                "conv4": {"acc_linf_0.03137": 0.436},
            }
        ),
    )


def few() -> Recipe:
    """2,000 images, one step of each adversary, Adam."""
    base = recipe()
    return base.but(
        name="cifar10_ask_few",
        data=data.TFDS("cifar10", train_images=2000),
        defense=replace(
            base.defense, adversary=Adversary(norm="linf", eps=4 / 255, steps=1, step_size=0.01569)
        ),
        optim=replace(base.optim, optimizer="adam", peak_lr=1e-3, batch_size=100, epochs=9, drops=()),
        classifier=replace(base.classifier, rows=0),
        attacks={
            "ask": attacks.ASK(tune=20),
            "minimum_norm": attacks.MinimumNorm(steps=30, starts=3),
        },
        evaluate=replace(base.evaluate, images=100, chunk=100),
        paper=None,
    )


def untrained() -> Recipe:
    """The same network as it is initialised."""
    base = few()
    return base.but(
        name="cifar10_ask_untrained",
        optim=replace(base.optim, epochs=0),
        attacks={"ask": attacks.ASK()},
        evaluate=replace(base.evaluate, images=20, chunk=20),
    )
