"""Sitawarin & Wagner's Basic network on MNIST: 75-NN on its third convolution (Table 2).

    python attack.py configs/mnist_basic.py

Trains 6 epochs (Adam 1e-3, batch 128; the authors' code 15, keeping the best on validation; six are
enough for their accuracy), and attacks the first 200 test images with 1,980 gradients each. To
attack the authors' own weights, give `--net.weights mnist_basic_weights.npz`, which
`python -m knn_jax.state_dict` makes of their file; results/README.md, "Data and weights", says how.

The paper reports accuracy .9870 and a mean L2 of 2.1054, withdrawn by its authors since.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="mnist_basic",
        data=config.Data(name="mnist"),
        net=config.Net(name="mnist"),
        optim=config.Optim(epochs=6),
        classifier=config.Classifier(layers=("relu3",), k=75),
        attack=config.Attack(images=200, steps=60, starts=33, chunk=50),
        reported={
            "relu3": {
                "clean_acc": 0.9870,
                "mean_l2": 2.1054,
                "acc_l2_1": 0.9103,
                "acc_l2_2": 0.5014,
                "acc_l2_3": 0.1144,
            }
        },
    )
