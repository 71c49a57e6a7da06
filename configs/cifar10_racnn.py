r"""Zhao & Cho's RaCNN on CIFAR-10: K = 10, local mixup (RaCNN-K10-mixup of Table 1).

    python attack.py configs/cifar10_racnn.py

An accelerator's work: a step takes 11 passes of the network for each image (0.7 GFLOP each, forward
and backward), an epoch of 45,000 images (the paper: 50,000) some 0.35 PFLOP. The paper names neither
epochs, batch nor rate, nor how many steps of cross-entropy there are to five of local mixup: 60 epochs,
batch 128, Adam 1e-3 and a tenth of it after 50, one step. Its augmentation is not named either; here it
is Sitawarin & Wagner's. Its variants and baseline, each with a `--workdir`
of its own:

    ... --name cifar10_racnn_k5 --defense.neighbors 5 --classifier.k 5
    ... --name cifar10_racnn_ce --defense.mixup-steps 0
    ... --name cifar10_racnn_baseline --net.name cifar10_strided --defense.name basic \
        --classifier.name network --attack.sources model

Scenario 1 of the paper is `on held`, scenario 2 `on network`; without either the retrieval is inside
the gradient, which the paper never tried. Its measure is the squared L2 norm over the number of pixels:
the radii are those of its 1e-5, 2e-5, 8e-5, 1e-4, 2e-4 and 4e-4. It reports clean accuracies of .8080
(K10-mixup), .7952 (K10), .7560 (K5-mixup), .7257 (K5) and .8515 (baseline), and in scenario 2 the
accuracies below, on images that are no JPEG copy.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="cifar10_racnn",
        data=config.Data(name="cifar10"),
        net=config.Net(name="cifar10_racnn"),
        defense=config.Defense(name="racnn", layers=("conv5",), neighbors=10, mixup_steps=5),
        optim=config.Optim(epochs=60, drops=(50,), augment="affine"),
        classifier=config.Classifier(name="retrieval", k=10),
        attack=config.Attack(
            images=1000,
            names=("minimum_norm", "fgsm", "ifgsm", "deepfool", "lbfgs", "boundary"),
            sources=("model", "held", "network"),
            norms=("l2",),
            radii=(0.1753, 0.2479, 0.4957, 0.5543, 0.7838, 1.1085),
        ),
        reported={
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
        },
    )
