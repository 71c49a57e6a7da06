"""Paper 1's certified defense: 1-NN on an autoencoder that is 1-Lipschitz by construction (Table 6).

    python certify.py configs/mnist_lipschitz.py --classifier.layers relu1

and the same with relu2, relu3 and bottleneck, which find the network trained. Non-overlapping patches
and near-isometries stand in place of the paper's scaled convolutions (`--net.sweeps 0` divides each
matrix by a bound of its norm instead, as there). Trains 10 epochs by Adam 1e-3, batch 256.

The paper's figures are those of its approximate search, over correctly classified images.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="mnist_lipschitz",
        data=config.Data(name="mnist"),
        net=config.Net(name="mnist_lipschitz"),
        defense=config.Defense(name="lipschitz", weight=10.0, apart=30.0),
        optim=config.Optim(epochs=10, drops=(7, 9), batch_size=256),
        classifier=config.Classifier(layers=("relu1",), k=1),
        attack=config.Attack(images=200, radii=(0.5, 1.0, 1.5, 1.58, 2.0), chunk=50),
        certify=config.Certify(images=10_000),
        reported={"clean_acc": 0.9701, "mean_radius": 0.8576, "cert_0.5": 0.8000, "cert_1": 0.3574},
    )
