"""1-NN on the pixels of MNIST, certified on all 10,000 test images (Sitawarin & Wagner's Table 6).

    python certify.py configs/mnist_pixels.py

`attack.py` attacks the first 200 besides, and `--certify.exact` computes the exact radius (a minute and
a half for all). The paper reports accuracy .9683 and a mean radius of .9567 by approximate neighbours,
over the images classified correctly; exact search gives .9051. Its Table 2 has 75-NN, of mean norm
3.139: `attack.py configs/mnist_pixels.py --name mnist_pixels_k75 --workdir runs/mnist_pixels_k75
--classifier.k 75 --attack.names minimum_norm guided --attack.baseline-images 50`.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="mnist_pixels",
        data=config.Data(name="mnist"),
        net=config.Net(name="pixels"),
        classifier=config.Classifier(layers=("pixels",), k=1),
        attack=config.Attack(images=200, steps=60, starts=8, radii=(0.5, 1.0, 1.5, 1.58, 2.0)),
        certify=config.Certify(images=10_000),
        reported={
            "pixels": {
                "clean_acc": 0.9683,
                "mean_radius": 0.9567,
                "cert_0.5": 0.8102,
                "cert_1": 0.4059,
                "cert_1.5": 0.0977,
                "cert_2": 0.0064,
            }
        },
    )
