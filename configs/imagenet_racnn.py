"""Zhao & Cho's RaCNN on ImageNet: K = 10, local mixup, ResNet-18, accuracy@5 (their Table 3).

    python attack.py configs/imagenet_racnn.py             an accelerator's work, never run here
    python attack.py configs/imagenet_racnn.py:baseline    the ResNet-18 alone
    python attack.py configs/imagenet_racnn.py:torchvision    on torchvision's weights, as the paper

Trains the ResNet-18 first, and by its pooled features, which it keeps (phi = phi'), the attention and
the last layer, begun as the network's own. An image is right where its class is among the first five,
by which attacks and accuracies go.

It needs TFDS's imagenet2012 and 66 GB of disk beside it: the 1.28 million images are decoded there
once, at 128 pixels a side, aspect ignored, and read from there, by training batch by batch and by
attacks image by image. The device holds 5.2 GB of keys and features while the recipe attacks, and 2.6
GB of features while it trains; the images themselves stay in the file."""

from dataclasses import replace

from knn_jax import attacks, data, defenses, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Optim


def recipe() -> Recipe:
    """10 neighbours, local mixup, on the features of a frozen ResNet-18."""
    return Recipe(
        name="imagenet_racnn",
        data=data.TFDS("imagenet2012", valid_fraction=0.01, size=128),
        defense=defenses.RaCNN(nets.imagenet_racnn(), retriever=nets.imagenet_resnet18(), layer="pool"),
        optim=Optim(epochs=30, batch_size=256, drops=(15, 25), augment="crop"),
        classifier=fit.Retrieval(top=5),
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
            baseline_images=200,
            radii=(0.7011, 0.9915, 1.4022, 2.217, 3.1354, 4.4341),
            sources=("model", "held", "network"),
            chunk=50,
        ),
        paper=papers.ZHAO_CHO.reports(
            {
                "pool": {"clean_acc": 0.7768},
                "pool, fgsm on network": {
                    "acc_l2_2.217": 0.2017,
                    "acc_l2_3.1354": 0.174,
                    "acc_l2_4.4341": 0.147,
                },
                "pool, ifgsm on network": {
                    "acc_l2_0.7011": 0.7728,
                    "acc_l2_0.9915": 0.6497,
                    "acc_l2_1.4022": 0.1767,
                },
                "pool, deepfool on network": {
                    "acc_l2_0.7011": 0.3574,
                    "acc_l2_0.9915": 0.3572,
                    "acc_l2_1.4022": 0.3571,
                },
            }
        ),
    )


def torchvision() -> Recipe:
    """On the ResNet-18 with weights of torchvision, from which the paper starts: resnet18.npz is made
    by `python -m knn_jax.nets.state_dict` of the file that torchvision downloads."""
    base, body = recipe(), nets.torchvision_resnet18()
    return base.but(
        name="imagenet_racnn_torchvision",
        defense=replace(
            base.defense,
            net=nets.FrozenRaCNN(body),
            retriever=body,
            retriever_weights="resnet18.npz",
        ),
    )


def baseline() -> Recipe:
    """The ResNet-18 without retrieval."""
    base = recipe()
    return base.but(
        name="imagenet_racnn_baseline",
        defense=defenses.CrossEntropy(nets.imagenet_resnet18()),
        classifier=fit.Network(top=5, rows=10_000),
        evaluate=replace(base.evaluate, sources=("model",)),
        paper=None,
    )
