"""Zhao & Cho's RaCNN on SVHN: K = 10, local mixup, candidates from the extra images (their Table 2).

    python attack.py configs/svhn_racnn.py    40 epochs: an accelerator's work

As `cifar10_racnn.py`, which says what the paper leaves open; images are not augmented, for digits have
no mirror image that is one. The 531,131 candidates take 6.5 GB as images and another 6.5 GB as keys of
3,072 numbers in float32, on host and device; `--defense.project 256` keeps 256 numbers of each, as the
paper had fewer too. Prepare the set by `tfds build svhn_cropped --file_format=array_record`.

The radii are those of the paper's 2e-5, 8e-5, 2e-4, 4e-4 and 8e-4. It reports clean accuracies of
0.9249 (K10-mixup), 0.9219 (K10), 0.9164 (K5-mixup), 0.9078 (K5) and 0.9548 (baseline)."""

from knn_jax import attacks, data, defenses, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Optim


def recipe() -> Recipe:
    """10 neighbours, local mixup."""
    return Recipe(
        name="svhn_racnn",
        data=data.TFDS("svhn_cropped", candidates="extra"),
        defense=defenses.RaCNN(nets.cifar10_racnn(), retriever=nets.cifar10_all_conv(), layer="conv5"),
        optim=Optim(epochs=40, drops=(30,)),
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
            radii=(0.2479, 0.4957, 0.7838, 1.1085, 1.5677),
            sources=("model", "held", "network"),
        ),
        paper=papers.ZHAO_CHO.reports(
            {
                "conv5": {"clean_acc": 0.9249},
                "conv5, fgsm on network": {
                    "acc_l2_0.7838": 0.6872,
                    "acc_l2_1.1085": 0.573,
                    "acc_l2_1.5677": 0.4349,
                },
                "conv5, ifgsm on network": {
                    "acc_l2_0.2479": 0.9245,
                    "acc_l2_0.4957": 0.7826,
                    "acc_l2_0.7838": 0.655,
                },
                "conv5, deepfool on network": {
                    "acc_l2_0.2479": 0.8733,
                    "acc_l2_0.4957": 0.8473,
                    "acc_l2_0.7838": 0.841,
                },
            }
        ),
    )
