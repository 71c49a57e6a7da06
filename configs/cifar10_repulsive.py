r"""Serban, Poll & Visser's repulsive prototypes on CIFAR-10: ResNet-18, D = 100 (Tables 1, 2 and 4).

    python attack.py configs/cifar10_repulsive.py

An accelerator's work: 127 epochs, the paper's number, of .56 GFLOP an image forward. Batch 128, SGD,
one cycle of the rate up to .02 and back; the paper has a tenth of that of Smith (2017), which we read
as a tenth of the .2 of Wong et al. (2020), whom it follows. Early stopping by PGD within 8/255 on 1,000
held-out images. What it leaves open, and what stands here:

- d of eqs. 5 and 6, "part of the threat model": cosine. By L2 and Linf, `--defense.distance l2
  --classifier.metric l2` and `--defense.distance linf --classifier.name network`, eq. 6 as it is
  written asks for distance 1 from the prototype, not 0.
- "eps = 8 (normalised)": 8/255 of pixels.
- which loss its PGD goes up: that of training, `pgd_loss`.

Table 1's rows are `--defense.dim 50` and `200`. The baselines, each with a `--workdir` of its own:

    ... --name cifar10_repulsive_softmax --defense.name basic --classifier.name network \
        --optim.peak-lr .1 --optim.cycles 0 --optim.drops 50 100 --optim.epochs 120 \
        --optim.stopping-eps 0
    ... --name cifar10_repulsive_at --defense.name basic --classifier.name network \
        --defense.adversary linf --defense.eps .03137 --defense.steps 10 --defense.step-size .00784

Table 4 is `on substitute`: the same network trained by cross-entropy, with this recipe's rate.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="cifar10_repulsive",
        data=config.Data(name="cifar10"),
        net=config.Net(name="cifar_resnet18", half=True),
        defense=config.Defense(name="repulsive", distance="cosine"),
        optim=config.Optim(
            optimizer="sgd",
            peak_lr=0.02,
            epochs=127,
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
            "prototypes": {"clean_acc": 0.92, "acc_linf_0.03137": 0.484},
            "prototypes, pgd_loss on substitute": {"acc_linf_0.03137": 0.725},
        },
    )
