"""Sitawarin & Wagner's rotation prediction: 75-NN on relu3 (Table 2).

    python attack.py configs/mnist_rotation.py

Cross-entropy on which of four ways an image is turned; no labels. An epoch has every image four
times. Trains 2 epochs by Adam 1e-3, batch 128 (its authors' code: 200 epochs of 32 images in four
orientations a batch).

The paper's figures are withdrawn by its authors.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="mnist_rotation",
        data=config.Data(name="mnist"),
        net=config.Net(name="mnist"),
        defense=config.Defense(name="rotation"),
        optim=config.Optim(epochs=2, drops=(1,)),
        classifier=config.Classifier(layers=("relu3",), k=75),
        attack=config.Attack(images=200, steps=60, starts=6, chunk=50),
        reported={
            "relu3": {
                "clean_acc": 0.9129,
                "mean_l2": 2.2157,
                "acc_l2_1": 0.7532,
                "acc_l2_2": 0.483,
                "acc_l2_3": 0.199,
            }
        },
    )
