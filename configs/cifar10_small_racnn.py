r"""Zhao & Cho's RaCNN in small: a tenth of CIFAR-10 and a narrow network, K = 10, local mixup.

    python attack.py configs/cifar10_small_racnn.py

Trains the network that retrieves, then the one that answers, 10 epochs each on 4,500 images: 19 minutes
on 2 CPU cores, beside much other work. Then, in a quarter of an hour, the paper's attacks on the first
50 test images: with the retrieval inside the gradient (our scenario 3), with the neighbours held (its
scenario 1, `on held`) and on the network retrieved by (its scenario 2, `on network`); and ours, for the
least perturbation of 100 and by PGD in the ball of each radius. Its other variants, each with a
`--workdir` of its own, and its baseline, the network retrieved by alone:

    ... --name cifar10_small_racnn_k5 --defense.neighbors 5 --classifier.k 5
    ... --name cifar10_small_racnn_ce --defense.mixup-steps 0
    ... --name cifar10_small_baseline --net.name small_strided --defense.name basic \
        --classifier.name network --attack.sources model

No paper reports this network; `cifar10_racnn.py` is the paper's.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="cifar10_small_racnn",
        data=config.Data(name="cifar10", train_images=5_000),
        net=config.Net(name="small_racnn"),
        defense=config.Defense(name="racnn", layers=("conv4",), neighbors=10, mixup_steps=5),
        optim=config.Optim(epochs=10, batch_size=64),
        classifier=config.Classifier(name="retrieval", k=10),
        attack=config.Attack(
            images=100,
            baseline_images=50,
            names=("minimum_norm", "pgd", "fgsm", "ifgsm", "deepfool", "lbfgs", "boundary"),
            sources=("model", "held", "network"),
            norms=("l2",),
            radii=(0.1753, 0.2479, 0.4957, 0.5543, 0.7838, 1.1085),
            chunk=50,
        ),
    )
