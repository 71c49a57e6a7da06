"""Sitawarin & Wagner's autoencoder: 75-NN on relu3 of its encoder (Table 2).

    python attack.py configs/mnist_autoencoder.py

Squared error of the reconstruction, summed over pixels; no labels. Trains 4 epochs by Adam 1e-3,
batch 128 (its authors' code: 100 epochs).

The paper's figures are withdrawn by its authors.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="mnist_autoencoder",
        data=config.Data(name="mnist"),
        net=config.Net(name="mnist_autoencoder"),
        defense=config.Defense(name="autoencoder"),
        optim=config.Optim(epochs=4, drops=(3,)),
        classifier=config.Classifier(layers=("relu3",), k=75),
        attack=config.Attack(
            images=200, steps=60, starts=6, guided_steps=1000, guided_constant=0.1, chunk=50
        ),
        reported={
            "relu3": {
                "clean_acc": 0.9509,
                "mean_l2": 3.0717,
                "acc_l2_1": 0.8855,
                "acc_l2_2": 0.7449,
                "acc_l2_3": 0.5336,
            }
        },
    )
