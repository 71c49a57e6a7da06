"""Sitawarin & Wagner's certified defense: 1-NN on a 1-Lipschitz autoencoder (Table 6).

    python certify.py configs/mnist_lipschitz.py --classifier.layers relu1

and the same with relu2, relu3 and bottleneck, which find the network trained. Non-overlapping patches
and near-isometries stand in place of the paper's scaled convolutions (`--net.sweeps 0` divides each
matrix by a bound of its norm instead, as there). Trains 10 epochs by Adam 1e-3, batch 256.

The paper's figures are those of its approximate search, over correctly classified images. Its attack
(`--attack.names minimum_norm guided`) draws near one row here, not a hundred: one is a vote.
"""

from knn_jax import config

TABLE = ("clean_acc", "mean_radius", "cert_0.5", "cert_1", "cert_1.5", "cert_2")
REPORTED = {
    "relu1": (0.9701, 0.8576, 0.8, 0.3574, 0.0663, 0.0034),
    "relu2": (0.9723, 0.7821, 0.7648, 0.2677, 0.0379, 0.0005),
    "relu3": (0.9745, 0.4295, 0.3509, 0.0013, 0.0, 0.0),
    "bottleneck": (0.9752, 0.3909, 0.2668, 0.0001, 0.0, 0.0),
}
ATTACKED = {"relu1": {"mean_l2": 1.82}}  # by the paper's attack, section 6.2


def get_config() -> config.Config:
    return config.Config(
        name="mnist_lipschitz",
        data=config.Data(name="mnist"),
        net=config.Net(name="mnist_lipschitz"),
        defense=config.Defense(name="lipschitz", weight=10.0, apart=30.0),
        optim=config.Optim(epochs=10, drops=(7, 9), batch_size=256),
        classifier=config.Classifier(layers=("relu1",), k=1),
        attack=config.Attack(images=200, guided_guides=1, radii=(0.5, 1.0, 1.5, 1.58, 2.0), chunk=50),
        certify=config.Certify(images=10_000),
        reported={
            layer: dict(zip(TABLE, row, strict=True)) | ATTACKED.get(layer, {})
            for layer, row in REPORTED.items()
        },
    )
