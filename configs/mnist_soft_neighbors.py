"""Sitawarin & Wagner's SNN representation: 75-NN on relu3 (Table 2).

    python attack.py configs/mnist_soft_neighbors.py

Cross-entropy and the soft nearest neighbour loss of three layers, weight 1. Trains 4 epochs by Adam
1e-3, batch 128 (its authors' code: 50 epochs at 1e-4, batch 256, keeping the best on validation).

The paper's figures are withdrawn by its authors.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="mnist_soft_neighbors",
        data=config.Data(name="mnist"),
        net=config.Net(name="mnist"),
        defense=config.Defense(name="soft_neighbors", weight=1.0),
        optim=config.Optim(epochs=4, drops=(3,)),
        classifier=config.Classifier(layers=("relu3",), k=75),
        attack=config.Attack(images=200, steps=60, starts=6, chunk=50),
        reported={
            "relu3": {
                "clean_acc": 0.994,
                "mean_l2": 1.7131,
                "acc_l2_1": 0.8558,
                "acc_l2_2": 0.2661,
                "acc_l2_3": 0.0547,
            }
        },
    )
