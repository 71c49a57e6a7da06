"""Sitawarin & Wagner's input mixup representation: 75-NN on relu3 (Table 2).

    python attack.py configs/mnist_input_mixup.py

Cross-entropy on interpolated images and labels. Trains 4 epochs by Adam 1e-3, batch 128 (its
authors' code: 50 epochs at 1e-4).

The paper's figures are withdrawn by its authors.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="mnist_input_mixup",
        data=config.Data(name="mnist"),
        net=config.Net(name="mnist"),
        defense=config.Defense(name="input_mixup"),
        optim=config.Optim(epochs=4, drops=(3,)),
        classifier=config.Classifier(layers=("relu3",), k=75),
        attack=config.Attack(images=200, steps=60, starts=6, chunk=50),
        reported={
            "relu3": {
                "clean_acc": 0.9812,
                "mean_l2": 2.0682,
                "acc_l2_1": 0.8133,
                "acc_l2_2": 0.5007,
                "acc_l2_3": 0.1729,
            }
        },
    )
