"""Nearest prototypes on the pixels of MNIST, trained for their certified radius (Voracek & Hein 2022).

    python certify.py configs/mnist_prototypes.py    trains and certifies all 10,000 test images
    python attack.py configs/mnist_prototypes.py     attacks the first 200 besides

200 prototypes of each digit are trained for 10 epochs, three minutes on one CPU core. Voracek & Hein
report a certified accuracy of 0.730 at L2 1.58; 1-NN on pixels has 0.435.
"""

from knn_jax import attacks, certificates, data, defenses, nets
from knn_jax.recipe import Evaluate, Recipe, fit
from knn_jax.training import Optim


def recipe() -> Recipe:
    """2,000 prototypes in all."""
    return Recipe(
        name="mnist_prototypes",
        data=data.TFDS("mnist"),
        defense=defenses.Prototypes(nets.Pixels(), count=200, radius=2.0),
        optim=Optim(peak_lr=0.02, batch_size=512, epochs=10, cycles=1),
        classifier=fit.Prototypes(),
        attacks={"minimum_norm": attacks.MinimumNorm(steps=60, starts=8)},
        certificates={
            "margin": certificates.Margin(),
            "voronoi": certificates.Voronoi(own=16, other=1024),
            "exact": certificates.Exact(),
        },
        evaluate=Evaluate(images=200, certified_images=10_000, radii=(0.5, 1.0, 1.5, 1.58, 2.0)),
    )
