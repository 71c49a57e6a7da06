"""Zhao & Cho's RaCNN on SVHN: K = 10, local mixup, candidates from the extra images (Table 2).

    python attack.py configs/svhn_racnn.py

An accelerator's work, as `cifar10_racnn.py`, whose docstring says what the paper leaves open; images
are not augmented, for digits have no mirror image that is one. The
531,131 candidates take 6.5 GB as images and another 6.5 GB as keys of 3,072 numbers in float32, on
host and device; `--defense.project 256` keeps 256 numbers of each, as the paper had fewer too.
Prepare the set by `tfds build svhn_cropped --file_format=array_record`.

The paper reports clean accuracies of .9249 (K10-mixup), .9219 (K10), .9164 (K5-mixup), .9078 (K5) and
.9548 (baseline), and in scenario 2 (`on network`) the accuracies below; the radii are those of its
2e-5, 8e-5, 2e-4, 4e-4 and 8e-4.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="svhn_racnn",
        data=config.Data(name="svhn_cropped", candidates="extra"),
        net=config.Net(name="cifar10_racnn"),
        defense=config.Defense(name="racnn", layers=("conv5",), neighbors=10, mixup_steps=5),
        optim=config.Optim(epochs=40, drops=(30,)),
        classifier=config.Classifier(name="retrieval", k=10),
        attack=config.Attack(
            images=1000,
            names=("minimum_norm", "fgsm", "ifgsm", "deepfool", "lbfgs", "boundary"),
            sources=("model", "held", "network"),
            norms=("l2",),
            radii=(0.2479, 0.4957, 0.7838, 1.1085, 1.5677),
        ),
        reported={
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
        },
    )
