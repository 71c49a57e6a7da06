"""Values that the papers fix in recipes, each with its place: whoever changes one fails here.

What a method takes unless told otherwise is in test_method_values.py.
"""

from pathlib import Path

import pytest

from knn_jax import attacks, values
from knn_jax.recipe import read
from knn_jax.workdir.claim import flat

CONFIGS = Path(__file__).parents[1] / "configs"
SITAWARIN, ZHAO = "Sitawarin & Wagner 2019", "Zhao & Cho 2018"


def trained(**knobs):
    return {f"optim.{name}": value for name, value in knobs.items()}


def adversary(norm, steps, step_size, eps):
    knobs = {"norm": norm, "steps": steps, "step_size": step_size, "eps": eps}
    return {f"defense.adversary.{name}": value for name, value in knobs.items()}


def guided(**knobs):
    return {f"attacks.guided.{name}": value for name, value in knobs.items()}


QIAN_AN_SU = {
    "defense.class": "IdResNet",
    **{"defense.net.subspaces": 2, "defense.net.dim": 15},
    **{"defense.net.shared": True, "defense.net.identity": True},
    **{"defense.noise": "binomial", "defense.decay": 0.5, "defense.near": 7.0},
    **{"classifier.k": 800, "classifier.metric.class": "Subspaces", "classifier.metric.count": 2},
    **{"attacks.kfgsm.steps": 30, "attacks.kfgsm.step_size": 0.1, "attacks.pgd.steps": 30},
    **trained(epochs=20, batch_size=2048),
}
WANG = {
    "defense.class": "ASK",
    **{"defense.layers": ["conv4"], "defense.weight": 1.0, "defense.temperature": 0.1},
    **{"defense.adversary.norm": "linf", "defense.adversary.steps": 10, "defense.references": 5},
    "defense.beside.class": "AdversarialCrossEntropy",
    **{"classifier.layers": ["conv3", "conv4"], "classifier.k": 5},
    **{"attacks.ask.steps": 20, "attacks.ask.temperature": [0.03], "attacks.adv_knn.epochs": 100},
    **trained(optimizer="sgd", peak_lr=0.1, epochs=200, drops=[100], batch_size=128),
    **trained(weight_decay=2e-4, augment="crop"),
}
SERBAN = {
    **{"defense.class": "Repulsive", "classifier.class": "Prototypes"},
    **{"attacks.pgd.steps": 100, "attacks.pgd_loss.steps": 100},
    **trained(peak_lr=0.02, cycles=1, stopping_eps=8 / 255),
}
ROBUST = guided(constant=0.1, steps=1000, learning_rate=0.1, guides=100)
RACNN = {"defense.class": "RaCNN", "defense.neighbors": 10, "defense.mixup_steps": 5}
# Recipe, what the paper or its authors' code say of it, and where.
RECIPES = [
    ("mnist_basic", {"classifier.k": 75}, f"{SITAWARIN}, section 4.1"),
    *(
        (name, ROBUST, f"{SITAWARIN}, appendix: c = 0.1, 1,000 steps on robust networks")
        for name in (
            *("mnist_autoencoder", "mnist_l2_adv", "mnist_linf_adv"),
            *("mnist_l2_adv_autoencoder", "mnist_l2_adv_rotation"),
        )
    ),
    *(
        (name, adversary(norm, steps, size, eps), f"{SITAWARIN}, section 5")
        for name, norm, steps, size, eps in (
            ("mnist_linf_adv", "linf", 40, 0.01, 0.3),
            ("mnist_l2_adv", "l2", 40, 0.1, None),
            ("mnist_l2_adv_autoencoder", "l2", 40, 0.1, None),
            ("mnist_l2_adv_rotation", "l2", 20, 0.05, None),
            ("cifar10_l2_adv", "l2", 8, 0.05, None),
        )
    ),
    ("mnist_soft_neighbors", {"defense.weight": 1.0}, f"{SITAWARIN}, section 4.1"),
    ("mnist_lipschitz", {"classifier.k": 1} | trained(batch_size=256), f"{SITAWARIN}, section 6"),
    (
        "cifar10_resnet",
        trained(epochs=120, drops=[50, 70, 90], weight_decay=1e-4, augment="affine")
        | guided(constant=1e-5, learning_rate=0.01),
        f"{SITAWARIN}, its authors' train_cifar10.py; its appendix",
    ),
    (
        "cifar10_l2_adv",
        trained(epochs=200, drops=[80, 120, 160], weight_decay=0.0, augment="affine")
        | guided(constant=1e-3, learning_rate=0.01),
        f"{SITAWARIN}, its authors' script; its appendix",
    ),
    ("cifar10_racnn", RACNN | {"classifier.top": 1}, f"{ZHAO}, section 5.1"),
    ("svhn_racnn", RACNN | {"classifier.top": 1}, f"{ZHAO}, section 5.2"),
    ("imagenet_racnn", RACNN | {"classifier.top": 5}, f"{ZHAO}, section 5.3: accuracy@5"),
    ("cifar10_racnn", trained(optimizer="adam"), f"{ZHAO}, section 5.1"),
    ("cifar10_idresnet", QIAN_AN_SU, "Qian, An & Su, section 3"),
    ("mnist_idresnet", QIAN_AN_SU, "Qian, An & Su, section 3"),
    ("cifar10_ask", WANG, "Wang et al. 2021, appendix D, and its authors' ask_train.py"),
    ("imagenette_ask", WANG, "Wang et al. 2021, appendix D, and its authors' ask_train.py"),
    (
        "cifar10_ask",
        adversary("linf", 10, 2 / 255, 4 / 255)
        | {"defense.eps_ask": 8 / 255, "classifier.rows": 20_000},
        "Wang et al. 2021, appendix D",
    ),
    (
        "imagenette_ask",
        {"defense.adversary.eps": 2 / 255, "classifier.rows": 8500},
        "Wang et al. 2021, appendix D",
    ),
    ("cifar10_repulsive", SERBAN | trained(epochs=127), "Serban et al. 2021, Table 2"),
    ("cifar100_repulsive", SERBAN | trained(epochs=106), "Serban et al. 2021, Table 3"),
]


@pytest.mark.parametrize(("name", "knobs", "place"), RECIPES, ids=lambda v: v if type(v) is str else "")
def test_a_recipe_has_the_values_of_its_paper(name, knobs, place):
    recipe, _ = read(str(CONFIGS / f"{name}.py"))
    found = flat(recipe.told())
    assert {knob: found[knob] for knob in knobs} == knobs, place


def test_the_guided_attack_is_that_of_the_papers_appendix():
    """Sitawarin & Wagner 2019: m = 100, c = 0.001, rate 0.1, 500 steps."""
    assert values.told(attacks.Guided()) == {
        **{"class": "Guided", "guides": 100, "constant": 1e-3, "learning_rate": 0.1, "steps": 500},
        "rounds": 10,
    }
