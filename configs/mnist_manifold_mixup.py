"""Sitawarin & Wagner's manifold mixup representation: 75-NN on relu3 (Table 2).

    python attack.py configs/mnist_manifold_mixup.py

Cross-entropy, interpolated before a layer drawn for each batch. Trains 4 epochs by Adam 1e-3, batch
128 (its authors' code: 50 epochs at 1e-4; their saved network gives .9860).

The paper's figures are withdrawn by its authors.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="mnist_manifold_mixup",
        data=config.Data(name="mnist"),
        net=config.Net(name="mnist"),
        defense=config.Defense(name="manifold_mixup"),
        optim=config.Optim(epochs=4, drops=(3,)),
        classifier=config.Classifier(layers=("relu3",), k=75),
        attack=config.Attack(images=200, steps=60, starts=6, chunk=50),
        reported={
            "relu3": {
                "clean_acc": 0.9838,
                "mean_l2": 2.2276,
                "acc_l2_1": 0.902,
                "acc_l2_2": 0.5272,
                "acc_l2_3": 0.179,
            }
        },
    )
