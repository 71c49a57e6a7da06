"""Wang et al.'s attack on pixels: 5-NN on MNIST images (their Table 5).

    python attack.py configs/mnist_ask_pixels.py              1,000 images, five trials: 25 minutes
    python attack.py configs/mnist_ask_pixels.py:all          ASK on all 10,000
    python attack.py configs/mnist_ask_pixels.py:authors40    by the steps of the authors' code, 40/255
    python attack.py configs/mnist_ask_pixels.py:authors60    the same within 60/255

Nothing is trained; 20,000 training images are searched, as in the paper (there 2,000 of each class).
ASK uses the L2 distance, as the classifier does, at the temperature that fools most of 200 images;
beside it its two baselines and ours.

The paper reports accuracies of 0.955 without an attack, 0.7642 within 40/255 and 0.705 within 60/255.
"""

from dataclasses import replace

from knn_jax import attacks, certificates, data, defenses, neighbors, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers

L2 = neighbors.Euclidean()


def recipe() -> Recipe:
    """All attacks on 1,000 images."""
    return Recipe(
        name="mnist_ask_pixels",
        data=data.TFDS("mnist"),
        defense=defenses.Untrained(nets.Pixels()),
        classifier=fit.KNN(layers=("pixels",), k=5, rows=20_000),
        attacks={
            "ask": attacks.ASK(metric=L2, tune=200),
            "dknn": attacks.DKNN(metric=L2),
            "adv_knn": attacks.AdvKNN(),
            "pgd": attacks.PGD(step_size=0.25),
            "minimum_norm": attacks.MinimumNorm(steps=60, starts=12),
        },
        certificates={
            "margin": certificates.Margin(),
            "voronoi": certificates.Voronoi(own=16, other=1024),
        },
        evaluate=Evaluate(
            images=1000, norms=("linf",), radii_linf=(40 / 255, 60 / 255), chunk=250, trials=5
        ),
        paper=papers.WANG.reports(
            {"pixels": {"clean_acc": 0.955, "acc_linf_0.1569": 0.7642, "acc_linf_0.2353": 0.705}}
        ),
    )


def all() -> Recipe:
    """ASK alone, on all test images."""
    base = recipe()
    return base.but(
        name="mnist_ask_pixels_all",
        attacks={"ask": base.attacks["ask"]},
        evaluate=replace(base.evaluate, images=10_000, certified_images=100, chunk=1000, trials=1),
    )


def authors40() -> Recipe:
    """ASK as the authors' code has it: by the cosine, 20 steps of 2/255, within 40/255."""
    return _authors(40, step_size=0.05, eps=0.156862745)


def authors60() -> Recipe:
    """The same within 60/255."""
    return _authors(60, step_size=0.033333333, eps=0.235294118)


def doubled() -> Recipe:
    """Twice the steps of every attack."""
    base = recipe()
    return base.but(
        name="mnist_ask_pixels_doubled",
        attacks={
            "ask": attacks.ASK(metric=L2, tune=200, steps=40, restarts=3),
            "dknn": attacks.DKNN(metric=L2, steps=40, restarts=3),
            "adv_knn": attacks.AdvKNN(steps=40, restarts=3),
            "pgd": attacks.PGD(step_size=0.25, steps=40, restarts=3),
            "minimum_norm": attacks.MinimumNorm(steps=120, starts=12),
        },
        evaluate=replace(base.evaluate, images=500, trials=1),
        paper=None,
    )


def _authors(level: int, step_size: float, eps: float) -> Recipe:
    base = all()
    return base.but(
        name=f"mnist_ask_pixels_authors{level}",
        attacks={"ask": attacks.ASK(step_size=step_size)},
        evaluate=replace(base.evaluate, radii_linf=(eps,)),
    )
