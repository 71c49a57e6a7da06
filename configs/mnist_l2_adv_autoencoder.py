r"""Sitawarin & Wagner's L2-Adv-AE: 75-NN on relu3 of an adversarially trained autoencoder (Table 3).

    python attack.py configs/mnist_l2_adv_autoencoder.py

The clean image restored from a perturbed one, 40 steps of .1; `--defense.eps 4` keeps it in a ball.
Trains 20 epochs by Adam 1e-3, batch 128 (its authors' code: 70 epochs, the rate falling at 40, 50
and 60).

In small, 7 minutes of one CPU core, clean .908:

    python attack.py configs/mnist_l2_adv_autoencoder.py --name mnist_l2_adv_autoencoder_small \
        --workdir runs/mnist_l2_adv_autoencoder_small --data.train-images 6000 --optim.epochs 6 \
        --optim.drops 5 --optim.batch-size 64 --defense.steps 10

The paper's figures are withdrawn by its authors.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="mnist_l2_adv_autoencoder",
        data=config.Data(name="mnist"),
        net=config.Net(name="mnist_autoencoder"),
        defense=config.Defense(name="autoencoder", adversary="l2", steps=40, step_size=0.1),
        optim=config.Optim(epochs=20, drops=(14, 18)),
        classifier=config.Classifier(layers=("relu3",), k=75),
        attack=config.Attack(
            images=200, steps=60, starts=6, guided_steps=1000, guided_constant=0.1, chunk=50
        ),
        reported={
            "relu3": {
                "clean_acc": 0.9641,
                "mean_l2": 3.0198,
                "acc_l2_1": 0.9323,
                "acc_l2_2": 0.8112,
                "acc_l2_3": 0.4899,
            }
        },
    )
