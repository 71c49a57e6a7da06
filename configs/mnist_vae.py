"""Sitawarin & Wagner's variational autoencoder: 75-NN on relu3 of its encoder (Table 2).

    python attack.py configs/mnist_vae.py

Evidence lower bound with Bernoulli pixels; no labels. Trains 4 epochs by Adam 1e-3, batch 128 (its
authors' code: 50 epochs).

The paper's figures are withdrawn by its authors.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="mnist_vae",
        data=config.Data(name="mnist"),
        net=config.Net(name="mnist_vae"),
        defense=config.Defense(name="vae"),
        optim=config.Optim(epochs=4, drops=(3,)),
        classifier=config.Classifier(layers=("relu3",), k=75),
        attack=config.Attack(images=200, steps=60, starts=6, chunk=50),
        reported={
            "relu3": {
                "clean_acc": 0.968,
                "mean_l2": 2.0859,
                "acc_l2_1": 0.8201,
                "acc_l2_2": 0.4876,
                "acc_l2_3": 0.1674,
            }
        },
    )
