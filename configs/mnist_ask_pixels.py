"""Wang et al.'s attack on pixels: 5-NN on MNIST images (its Table 5).

    python attack.py configs/mnist_ask_pixels.py

Nothing is trained; 20,000 training images are searched, as in the paper (there 2,000 of each class).
The ASK attack at 40/255 and 60/255, by l2 as the classifier and at the temperature that fools most of
200 images, five trials of it, its two baselines, and ours: minimum_norm, and pgd on the soft vote with
references retrieved anew. To double the steps, `--ball.steps 40`; for k = 10, `--classifier.k 10`; the
table's other half is `--name fashion_mnist_ask_pixels --data.name fashion_mnist`. 25 minutes on
one shared CPU core.

The paper reports accuracies of .955 without an attack, .7642 and .705 under it.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="mnist_ask_pixels",
        data=config.Data(name="mnist"),
        net=config.Net(name="pixels"),
        classifier=config.Classifier(layers=("pixels",), k=5, bank_rows=20_000),
        attack=config.Attack(
            images=1000,
            names=("ask", "dknn", "adv_knn", "pgd", "minimum_norm"),
            norms=("linf",),
            radii_linf=(40 / 255, 60 / 255),
            starts=12,
            chunk=250,
        ),
        ball=config.Ball(trials=5, metric="l2", tune=200),
        reported={"pixels": {"clean_acc": 0.955, "acc_linf_0.1569": 0.7642, "acc_linf_0.2353": 0.705}},
    )
