r"""The rows of Qian, An & Su's Table 2 on CIFAR-10 in small: layers of 286 numbers in place of 2,078.

    python attack.py configs/cifar10_small_idresnet.py

As `configs/cifar10_idresnet.py` has it otherwise. FULL is this recipe; the others, each with a
`--workdir` of its own:

    ... --name cifar10_small_idresnet_e --net.no-shared
    ... --name cifar10_small_idresnet_d --net.no-identity
    ... --name cifar10_small_idresnet_c --net.no-identity --net.no-shared
    ... --name cifar10_small_idresnet_b --defense.name noisy --net.subspaces 1 --net.dim 10 \
        --net.no-shared --classifier.name network --attack.names pgd_loss pgd minimum_norm
    ... --name cifar10_small_idresnet_a --net.no-identity  (and what b has)

The paper's figures are of the full width: clean .5427 (A), .5473 (B), .5334 (C), .5267 (D), .5424 (E)
and .5338; within 8/255 .0725, .0589, .3738, .3909, .4448 and .4548.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="cifar10_small_idresnet",
        data=config.Data(name="cifar10", valid_fraction=0.002),
        net=config.Net(name="small_idresnet"),
        defense=config.Defense(name="idresnet", pull=1e-7),
        optim=config.Optim(epochs=20, batch_size=2048, drops=(15,)),
        classifier=config.Classifier(layers=("cl",), metric="subspaces", k=800),
        attack=config.Attack(
            images=200,
            names=("kfgsm", "minimum_norm"),
            norms=("linf",),
            radii_linf=(0.247 * 8 / 255, 0.247 * 16 / 255, 8 / 255, 16 / 255),
            chunk=100,
        ),
        ball=config.Ball(steps=30, step_size=0.1),
    )
