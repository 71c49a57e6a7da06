r"""Serban, Poll & Visser's repulsive prototypes on MNIST: a small VGG, D = 100.

    python attack.py configs/mnist_repulsive.py

As `configs/cifar10_repulsive.py` has it, where what the paper leaves open is told, for 8 epochs of
9,000 images by Adam, without augmentation. Variants and baselines, each with a `--workdir` of its own:

    ... --name mnist_repulsive_l2 --defense.distance l2 --classifier.metric l2
    ... --name mnist_repulsive_linf --defense.distance linf --classifier.name network
    ... --name mnist_softmax --defense.name basic --classifier.name network
    ... --name mnist_softmax_at --defense.name basic --classifier.name network \
        --defense.adversary linf --defense.eps .2 --defense.steps 5 --defense.step-size .08

The paper has no figures for MNIST.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="mnist_repulsive",
        data=config.Data(name="mnist", train_images=10_000),
        net=config.Net(name="mnist_vgg"),
        defense=config.Defense(name="repulsive", distance="cosine"),
        optim=config.Optim(epochs=8, cycles=1, stopping_eps=0.1),
        classifier=config.Classifier(name="prototypes", metric="cosine", k=1),
        attack=config.Attack(
            images=500,
            names=("pgd_loss", "pgd", "minimum_norm"),
            sources=("model", "substitute"),
            norms=("linf",),
            radii_linf=(0.05, 0.1, 0.15, 0.2, 0.3),
        ),
        ball=config.Ball(steps=20, step_size=0.25),
    )
