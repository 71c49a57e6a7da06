r"""Serban, Poll & Visser's repulsive prototypes in small: a tenth of CIFAR-10, a narrow ResNet.

    python attack.py configs/cifar10_small_repulsive.py

As `configs/cifar10_repulsive.py` has it, where what the paper leaves open is told, for 10 epochs of
4,500 images by Adam. Its baselines, each with a `--workdir` of its own:

    ... --name cifar10_small_softmax --defense.name basic --classifier.name network \
        --optim.stopping-eps 0
    ... --name cifar10_small_at --defense.name basic --classifier.name network \
        --defense.adversary linf --defense.eps .03137 --defense.steps 5 --defense.step-size .0125

No paper reports this network.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="cifar10_small_repulsive",
        data=config.Data(name="cifar10", train_images=5_000),
        net=config.Net(name="small_resnet18"),
        defense=config.Defense(name="repulsive", distance="cosine"),
        optim=config.Optim(
            peak_lr=3e-3, batch_size=64, epochs=10, cycles=1, augment="crop", stopping_eps=2 / 255
        ),
        classifier=config.Classifier(name="prototypes", metric="cosine", k=1),
        attack=config.Attack(
            images=200,
            names=("pgd_loss", "pgd", "minimum_norm"),
            sources=("model", "substitute"),
            norms=("linf",),
            radii_linf=(2 / 255, 4 / 255, 8 / 255, 12 / 255, 16 / 255),
        ),
        ball=config.Ball(steps=20, step_size=0.25),
    )
