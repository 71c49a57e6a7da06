"""Wang et al.'s ASK-Def on ten classes of ImageNet: DkNN on conv3 and conv4 of a ResNet-18 (Table 7).

    python attack.py configs/imagenette_ask.py    200 epochs: an accelerator's work

As `cifar10_ask.py`, on TFDS's imagenette, whose ten classes stand in place of the paper's own ten, at
128 pixels a side.
"""

from knn_jax import attacks, data, defenses, neighbors, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Adversary, Optim


def recipe() -> Recipe:
    """ASK-Def, as the paper trains it."""
    return Recipe(
        name="imagenette_ask",
        data=data.TFDS("imagenette/160px-v2", size=128, valid_fraction=0.05),
        defense=defenses.ASK(
            nets.imagenette_resnet18(),
            layers=("conv4",),
            adversary=Adversary(norm="linf", eps=2 / 255, steps=10, step_size=1 / 255),
            eps_ask=4 / 255,
        ),
        optim=Optim(
            optimizer="sgd", peak_lr=0.1, epochs=200, drops=(100,), weight_decay=2e-4, augment="crop"
        ),
        classifier=fit.KNN(layers=("conv3", "conv4"), k=5, metric=neighbors.Cosine(), rows=8500),
        attacks={
            "ask": attacks.ASK(tune=100),
            "dknn": attacks.DKNN(),
            "adv_knn": attacks.AdvKNN(),
            "pgd": attacks.PGD(step_size=0.25),
        },
        evaluate=Evaluate(images=3925, norms=("linf",), radii_linf=(4 / 255, 8 / 255), chunk=100),
        paper=papers.WANG.reports(
            {
                "conv3+conv4": {"acc_linf_0.03137": 0.358},
                "conv3": {"acc_linf_0.03137": 0.379},
                "conv4": {"acc_linf_0.03137": 0.306},
            }
        ),
    )
