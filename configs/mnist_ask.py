"""Wang et al.'s ASK-Def on MNIST: DkNN on conv3 and conv4 of a small VGG, with its baselines.

    python attack.py configs/mnist_ask.py            ASK-Def: 4 epochs on 9,000 images
    python attack.py configs/mnist_ask.py:at         adversarial training (Madry et al. 2018)
    python attack.py configs/mnist_ask.py:at30       the same in twice the ball
    python attack.py configs/mnist_ask.py:at_snn     with the soft nearest neighbour loss
    python attack.py configs/mnist_ask.py:trades     TRADES (Zhang et al. 2019)

As in the paper training images are perturbed within half of the largest radius, and ASK's own within
all of it; the first 500 test images are attacked within 0.1, 0.2 and 0.3. The other variants are
studies on these networks: they take the `--workdir` of the network that they look at. No paper reports
this network; its own are `cifar10_ask.py` and `imagenette_ask.py`."""

from dataclasses import replace

from knn_jax import attacks, data, defenses, neighbors, nets
from knn_jax.recipe import Evaluate, Recipe, fit, papers
from knn_jax.training import Adversary, Optim

ADVERSARY = Adversary(norm="linf", eps=0.15, steps=5, step_size=0.06)
NET = nets.mnist_vgg()
ON_BOTH = ("conv3", "conv4")


def recipe() -> Recipe:
    """ASK-Def."""
    return Recipe(
        name="mnist_ask",
        data=data.TFDS("mnist", train_images=10_000),
        defense=defenses.ASK(NET, layers=("conv4",), adversary=ADVERSARY, eps_ask=0.3),
        optim=Optim(epochs=4, batch_size=64),
        classifier=_knn(*ON_BOTH),
        attacks={
            "ask": attacks.ASK(tune=100),
            "dknn": attacks.DKNN(),
            "adv_knn": attacks.AdvKNN(),
            "pgd": attacks.PGD(step_size=0.25),
            "minimum_norm": attacks.MinimumNorm(steps=60, starts=6),
        },
        evaluate=Evaluate(images=500, norms=("linf",), radii_linf=(0.1, 0.2, 0.3), chunk=250, trials=3),
        paper=papers.WANG,
    )


def at() -> Recipe:
    """Adversarial training alone."""
    return _at("mnist_at", radii=(0.1, 0.15, 0.2, 0.25, 0.3))


def at30() -> Recipe:
    """Adversarial training in the whole ball."""
    adversary = Adversary(norm="linf", eps=0.3, steps=5, step_size=0.12)
    made = _only(recipe(), "ask", "minimum_norm")
    return made.but(name="mnist_at30", defense=defenses.CrossEntropy(NET, adversary=adversary))


def at_snn() -> Recipe:
    """Adversarial training with the soft nearest neighbour loss of conv4."""
    base = recipe()
    return base.but(
        name="mnist_at_snn",
        defense=defenses.SoftNeighbors(NET, layers=("conv4",), adversary=ADVERSARY),
        evaluate=replace(base.evaluate, trials=1),
    )


def trades() -> Recipe:
    """TRADES."""
    base = recipe()
    return base.but(
        name="mnist_trades",
        defense=defenses.Trades(NET, adversary=ADVERSARY),
        evaluate=replace(base.evaluate, trials=1),
    )


def conv3() -> Recipe:
    """ASK-Def, by conv3 alone."""
    return _study(recipe(), "mnist_ask_conv3", ("conv3",), "ask", "minimum_norm", images=200)


def conv4() -> Recipe:
    """ASK-Def, by conv4 alone."""
    return _study(recipe(), "mnist_ask_conv4", ("conv4",), "ask", "minimum_norm", images=200)


def doubled() -> Recipe:
    """ASK-Def, with twice the steps of minimum_norm."""
    return _minimum_norm(recipe(), "mnist_ask_doubled", steps=120)


def at_snn_conv3() -> Recipe:
    """With the soft nearest neighbour loss, by conv3 alone."""
    return _study(at_snn(), "mnist_at_snn_conv3", ("conv3",), "ask", "minimum_norm", images=200)


def at_snn_conv4() -> Recipe:
    """With the soft nearest neighbour loss, by conv4 alone."""
    return _study(at_snn(), "mnist_at_snn_conv4", ("conv4",), "ask", "minimum_norm", images=200)


def at_conv3() -> Recipe:
    """Adversarial training, by conv3 alone."""
    return _study(
        _at(), "mnist_at_conv3", ("conv3",), "ask", "dknn", "adv_knn", "minimum_norm", images=500
    )


def at_conv4() -> Recipe:
    """Adversarial training, by conv4 alone."""
    return _study(
        _at(), "mnist_at_conv4", ("conv4",), "ask", "dknn", "adv_knn", "minimum_norm", images=500
    )


def at_both_by_conv3() -> Recipe:
    """The gray box: an attacker who only knows conv3."""
    return _gray_box("mnist_at_both_by_conv3", ON_BOTH, "conv3")


def at_both_by_conv4() -> Recipe:
    """The gray box: an attacker who only knows conv4."""
    return _gray_box("mnist_at_both_by_conv4", ON_BOTH, "conv4")


def at_conv3_by_conv4() -> Recipe:
    """The gray box: conv3 decides and conv4 is attacked."""
    return _gray_box("mnist_at_conv3_by_conv4", ("conv3",), "conv4")


def at_conv4_by_conv3() -> Recipe:
    """The gray box: conv4 decides and conv3 is attacked."""
    return _gray_box("mnist_at_conv4_by_conv3", ("conv4",), "conv3")


def at_slope1() -> Recipe:
    """DkNN's attack with a flat sigmoid."""
    return _slope(1.0)


def at_slope16() -> Recipe:
    """DkNN's attack with a steeper sigmoid."""
    return _slope(16.0)


def at_slope64() -> Recipe:
    """DkNN's attack with a steep sigmoid."""
    return _slope(64.0)


def at_doubled() -> Recipe:
    """Adversarial training, with twice the steps of minimum_norm."""
    return _minimum_norm(_at(radii=(0.1, 0.2, 0.3)), "mnist_at_doubled", steps=120)


def at_starts() -> Recipe:
    """Adversarial training, with twice the starts of minimum_norm."""
    base = _at(radii=(0.1, 0.2, 0.25, 0.3))
    return _minimum_norm(base, "mnist_at_starts", starts=12)


def at_starts_doubled() -> Recipe:
    """Adversarial training, with twice the starts and steps of minimum_norm."""
    base = _at(radii=(0.1, 0.2, 0.25, 0.3))
    return _minimum_norm(base, "mnist_at_starts_doubled", steps=120, starts=12)


def _knn(*layers: str) -> fit.KNN:
    return fit.KNN(layers=layers, k=5, metric=neighbors.Cosine())


def _at(name: str = "mnist_at", radii: tuple[float, ...] = (0.2, 0.25, 0.3)) -> Recipe:
    base = recipe()
    return base.but(
        name=name,
        defense=defenses.CrossEntropy(NET, adversary=ADVERSARY),
        evaluate=replace(base.evaluate, radii_linf=radii),
    )


def _only(base: Recipe, *names: str) -> Recipe:
    return base.but(attacks={name: base.attacks[name] for name in names})


def _study(base: Recipe, name: str, layers: tuple[str, ...], *names: str, images: int) -> Recipe:
    evaluate = replace(base.evaluate, images=images, trials=1)
    return _only(base, *names).but(name=name, classifier=_knn(*layers), evaluate=evaluate)


def _gray_box(name: str, layers: tuple[str, ...], known: str) -> Recipe:
    base = _study(_at(), name, layers, "ask", images=200)
    return base.but(attacks={"ask": attacks.ASK(tune=100, layers=(known,))})


def _slope(slope: float) -> Recipe:
    base = _study(_at(), f"mnist_at_slope{slope:g}", ON_BOTH, "dknn", images=200)
    return base.but(attacks={"dknn": attacks.DKNN(slope=slope)})


def _minimum_norm(base: Recipe, name: str, steps: int = 60, starts: int = 6) -> Recipe:
    attack = attacks.MinimumNorm(steps=steps, starts=starts)
    evaluate = replace(base.evaluate, trials=1)
    return base.but(name=name, attacks={"minimum_norm": attack}, evaluate=evaluate)
