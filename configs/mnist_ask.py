r"""Wang et al.'s defense on MNIST: DkNN on conv3 and conv4 of a small VGG trained by ASK-Def.

    python attack.py configs/mnist_ask.py

Trains 4 epochs on 9,000 images by Adam, half of eps in training as in the paper: perturbed within .15,
ASK's own images within .3; then attacks the first 500 test images within .1, .2 and .3. The paper's
baselines, by the same trainer:

    python attack.py configs/mnist_ask.py --name mnist_at --workdir runs/mnist_at --defense.name basic
    ... --name mnist_at30 --workdir runs/mnist_at30 --defense.name basic --defense.eps .3 \
        --defense.step-size .12
    ... --name mnist_at_snn --defense.name soft_neighbors --defense.layers conv4
    ... --name mnist_trades --defense.name trades

and ASK-Def beside TRADES by `--defense.generator trades`. One layer: `--classifier.layers conv4`; the
gray box: `--ball.layers conv3`. No paper reports this network; its own are `cifar10_ask.py` and
`imagenette_ask.py`.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="mnist_ask",
        data=config.Data(name="mnist", train_images=10_000),
        net=config.Net(name="mnist_vgg"),
        defense=config.Defense(
            name="ask",
            layers=("conv4",),
            adversary="linf",
            eps=0.15,
            eps_ask=0.3,
            steps=5,
            step_size=0.06,
        ),
        optim=config.Optim(epochs=4, batch_size=64),
        classifier=config.Classifier(layers=("conv3", "conv4"), metric="cosine", k=5),
        attack=config.Attack(
            images=500,
            names=("ask", "dknn", "adv_knn", "pgd", "minimum_norm"),
            norms=("linf",),
            radii_linf=(0.1, 0.2, 0.3),
            chunk=250,
        ),
        ball=config.Ball(tune=100, trials=3),
    )
