r"""Zhao & Cho's RaCNN on ImageNet: K = 10, local mixup, ResNet-18, accuracy@5 (Table 3).

    python attack.py configs/imagenet_racnn.py

Trains the ResNet-18 first, and by its pooled features, which it keeps (phi = phi'), the attention and
the last layer, begun as the network's own. An image is right where its class is among the first five,
by which attacks and accuracies go. `--net.name imagenet_resnet18 --net.no-frozen --defense.name basic
--classifier.name network --attack.sources model` is the baseline.

Never run: no ImageNet was at hand. It needs TFDS's imagenet2012 and, for the 1.28 million images, 63 GB
on the host at 128 pixels a side, aspect ignored. To attack they lie on the device as float32, 252 GB,
and 5.2 GB of keys and features; the network that is followed besides has them twice more, from which
its attacks start. No one device has that: `--data.train-images 200000 --attack.sources model held`
needs 40 GB. An epoch of the first network is some 4 PFLOP (1.04 GFLOP an image forward, 3.4 at the
paper's 224), one of the second, forward only, eleven times as many passes. The paper tells neither
epochs nor rates.

Its measure is the squared L2 norm over the number of pixels: the radii are those of its 1e-5, 2e-5,
4e-5, 1e-4, 2e-4 and 4e-4. It reports the accuracies below in scenario 2, and for the baseline .8898, by
FGSM .15, .1312 and .1165, by iFGSM .0959, .0357 and .0182, by DeepFool .0029, .0017 and .0016.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="imagenet_racnn",
        data=config.Data(name="imagenet2012", valid_fraction=0.01, size=128),
        net=config.Net(name="imagenet_racnn", frozen=True),
        defense=config.Defense(name="racnn", layers=("pool",), neighbors=10, mixup_steps=5),
        optim=config.Optim(epochs=30, batch_size=256, drops=(15, 25), augment="crop"),
        classifier=config.Classifier(name="retrieval", k=10, top=5),
        attack=config.Attack(
            images=1000,
            baseline_images=200,
            names=("minimum_norm", "fgsm", "ifgsm", "deepfool", "lbfgs", "boundary"),
            sources=("model", "held", "network"),
            norms=("l2",),
            radii=(0.7011, 0.9915, 1.4022, 2.217, 3.1354, 4.4341),
            chunk=50,
        ),
        reported={
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
        },
    )
