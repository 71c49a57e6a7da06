"""Serban, Poll & Visser's repulsive prototypes on CIFAR-100: ResNet-18, D = 500 (Table 3).

    python attack.py configs/cifar100_repulsive.py

As `configs/cifar10_repulsive.py` has it, where what the paper leaves open is told, for its 106 epochs.
It says that D is 50 times the classes, which would be 5,000, to stay below the 512 numbers before the
last layer: here it is five times.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="cifar100_repulsive",
        data=config.Data(name="cifar100"),
        net=config.Net(name="cifar_resnet18", half=True),
        defense=config.Defense(name="repulsive", distance="cosine", dim=500),
        optim=config.Optim(
            optimizer="sgd",
            peak_lr=0.02,
            epochs=106,
            cycles=1,
            weight_decay=5e-4,
            augment="crop",
            stopping_eps=8 / 255,
        ),
        classifier=config.Classifier(name="prototypes", metric="cosine", k=1),
        attack=config.Attack(
            images=1000,
            names=("pgd_loss", "pgd", "minimum_norm"),
            sources=("model", "substitute"),
            norms=("linf",),
            radii_linf=(8 / 255, 10 / 255, 12 / 255, 14 / 255, 16 / 255),
        ),
        ball=config.Ball(steps=100, step_size=0.1),
        reported={
            "prototypes": {"clean_acc": 0.717, "acc_linf_0.03137": 0.20},
            "prototypes, pgd_loss on substitute": {"acc_linf_0.03137": 0.362},
        },
    )
