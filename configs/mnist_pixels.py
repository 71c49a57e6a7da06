"""1-NN on the pixels of MNIST, certified on all 10,000 test images (Sitawarin & Wagner's Table 6).

    python certify.py configs/mnist_pixels.py        margin and Voronoi bounds, and the exact radius
    python attack.py configs/mnist_pixels.py         attacks the first 200 besides
    python certify.py configs/mnist_pixels.py:k3     the exact radius of 3-NN on 100 images
    python attack.py configs/mnist_pixels.py:k75     75-NN of their Table 2, mean norm 3.139 there

The paper reports a clean accuracy of 0.9683 and a mean radius of 0.9567 by approximate neighbours,
over the images classified correctly; exact search gives 0.9051."""

from dataclasses import replace

from knn_jax import attacks, certificates, data, defenses, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers


def recipe() -> Recipe:
    """1-NN, whose radius is known exactly."""
    return Recipe(
        name="mnist_pixels",
        data=data.TFDS("mnist"),
        defense=defenses.Untrained(nets.Pixels()),
        classifier=fit.KNN(layers=("pixels",), k=1),
        attacks={"minimum_norm": attacks.MinimumNorm(steps=60, starts=8)},
        certificates={
            "margin": certificates.Margin(),
            "voronoi": certificates.Voronoi(own=16, other=1024),
            "exact": certificates.Exact(),
        },
        evaluate=Evaluate(images=200, certified_images=10_000, radii=(0.5, 1.0, 1.5, 1.58, 2.0)),
        paper=papers.SITAWARIN_WAGNER.reports(
            {
                "pixels": {
                    "clean_acc": 0.9683,
                    "mean_radius": 0.9567,
                    "cert_0.5": 0.8102,
                    "cert_1": 0.4059,
                    "cert_1.5": 0.0977,
                    "cert_2": 0.0064,
                }
            }
        ),
    )


def k3() -> Recipe:
    """3-NN, whose exact radius takes half a second an image."""
    base = recipe().unreported()
    return base.but(
        name="mnist_pixels_k3",
        classifier=fit.KNN(layers=("pixels",), k=3),
        evaluate=replace(base.evaluate, images=100, certified_images=100),
    )


def k75() -> Recipe:
    """75-NN, attacked by the paper's attack too."""
    base = recipe()
    return base.but(
        name="mnist_pixels_k75",
        classifier=fit.KNN(layers=("pixels",), k=75),
        attacks=base.attacks | {"guided": attacks.Guided()},
        certificates={name: base.certificates[name] for name in ("margin", "voronoi")},
        evaluate=replace(base.evaluate, images=100, baseline_images=50, certified_images=100),
        paper=papers.SITAWARIN_WAGNER.reports(
            {
                "pixels": {
                    "clean_acc": 0.9457,
                    "mean_l2": 3.1389,
                    "acc_l2_1": 0.8907,
                    "acc_l2_2": 0.7675,
                    "acc_l2_3": 0.5579,
                }
            }
        ),
    )
