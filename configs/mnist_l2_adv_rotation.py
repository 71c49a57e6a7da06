r"""Sitawarin & Wagner's L2-Adv-Rot: 75-NN on relu3, adversarially trained to tell turns (Table 3).

    python attack.py configs/mnist_l2_adv_rotation.py

Perturbed images only, 20 steps of .05; `--defense.eps 4` keeps them in a ball. Trains 10 epochs by
Adam 1e-3, batch 128 (its authors' code: 50 epochs of 32 images in four orientations a batch).

In small, 17 minutes of one shared CPU core, clean .837:

    python attack.py configs/mnist_l2_adv_rotation.py --name mnist_l2_adv_rotation_small \
        --workdir runs/mnist_l2_adv_rotation_small --data.train-images 6000 --optim.epochs 3 \
        --optim.drops 2 --optim.batch-size 64 --defense.steps 5

The paper's figures are withdrawn by its authors.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="mnist_l2_adv_rotation",
        data=config.Data(name="mnist"),
        net=config.Net(name="mnist"),
        defense=config.Defense(name="rotation", adversary="l2", steps=20, step_size=0.05),
        optim=config.Optim(epochs=10, drops=(7, 9)),
        classifier=config.Classifier(layers=("relu3",), k=75),
        attack=config.Attack(
            images=200, steps=60, starts=6, guided_steps=1000, guided_constant=0.1, chunk=50
        ),
        reported={
            "relu3": {
                "clean_acc": 0.9716,
                "mean_l2": 2.9973,
                "acc_l2_1": 0.9658,
                "acc_l2_2": 0.8302,
                "acc_l2_3": 0.4571,
            }
        },
    )
