"""Ways to train a representation."""

from typing import Any

from knn_jax import config
from knn_jax.defenses import generators
from knn_jax.defenses.adversarial import adversarial
from knn_jax.defenses.ask import ask
from knn_jax.defenses.autoencoder import autoencoder, vae
from knn_jax.defenses.basic import basic
from knn_jax.defenses.defense import STATISTICS, Batch, Defense, Others
from knn_jax.defenses.generators import Generator, trained
from knn_jax.defenses.idresnet import idresnet, noisy
from knn_jax.defenses.lipschitz import lipschitz
from knn_jax.defenses.mixup import mixup
from knn_jax.defenses.prototypes import prototypes, repulsive
from knn_jax.defenses.racnn import racnn
from knn_jax.defenses.soft_neighbors import TEMPERATURE, soft_neighbors

__all__ = [
    "STATISTICS",
    "Batch",
    "Defense",
    "Generator",
    "Others",
    "adversarial",
    "ask",
    "autoencoder",
    "basic",
    "build",
    "check",
    "idresnet",
    "lipschitz",
    "mixup",
    "noisy",
    "prototypes",
    "racnn",
    "repulsive",
    "soft_neighbors",
    "trained",
    "vae",
]


# Whose outputs are no classes of images.
CLASSLESS = ("rotation", "autoencoder", "vae", "lipschitz", "idresnet")
# That train networks with batch normalisation.
NORMALISED = ("basic", "rotation", "soft_neighbors", "trades", "ask", "repulsive")


def build(knobs: config.Defense, net: Any) -> Defense:
    """The training that the recipe names."""
    match knobs.name:
        case "basic" | "rotation":
            found = basic(net)
        case "soft_neighbors":
            temperature = knobs.temperature or TEMPERATURE
            found = soft_neighbors(net, knobs.weight, knobs.layers, temperature)
        case "input_mixup":
            found = mixup(net, stages=1)
        case "manifold_mixup":
            found = mixup(net, stages=len(net.layers) + 2)
        case "autoencoder":
            found = autoencoder(net)
        case "vae":
            found = vae(net)
        case "lipschitz":
            found = lipschitz(net, knobs.weight, knobs.apart)
        case "racnn":
            return racnn(net, ce_steps=knobs.ce_steps, mixup_steps=knobs.mixup_steps)
        case "idresnet":
            force: Any = {"pull": knobs.pull, "decay": knobs.decay, "near": knobs.near}
            found = idresnet(net, noise=knobs.noise, **force)
        case "noisy":
            found = noisy(net, knobs.noise)
        case "repulsive":
            found = repulsive(net)
        case "prototypes":
            found = prototypes(net, knobs.radius)
        case "trades":
            return trained(net, _generator(knobs, "trades"))
        case "ask":
            own = ask(
                _generator(knobs, knobs.generator),
                knobs.layers,
                eps=knobs.eps_ask or 2 * knobs.eps,
                steps=knobs.steps,
                step_size=knobs.step_size,
                weight=knobs.weight,
                temperature=knobs.temperature or 0.1,
            )
            return trained(net, own)
    if knobs.adversary == "none":
        return found
    return adversarial(found, knobs.adversary, knobs.eps, steps=knobs.steps, step_size=knobs.step_size)


def _generator(knobs: config.Defense, name: str) -> Generator:
    numbers: Any = {"eps": knobs.eps, "steps": knobs.steps, "step_size": knobs.step_size}
    return generators.pgd(**numbers) if name == "pgd" else generators.trades(**numbers, beta=knobs.beta)


def check(knobs: config.Defense, net: config.Net) -> None:
    """Raises ValueError for a net that this does not train, and for knobs out of range."""
    size, _, kind = net.name.partition("_")
    if kind == "racnn" or knobs.name == "racnn":
        _check_racnn(knobs, net)
        return
    if kind in ("resnet", "resnet18", "vgg", "strided"):
        if knobs.name not in NORMALISED:
            known = f"use {', '.join(map(repr, NORMALISED))}"
            raise ValueError(f"defense.name={knobs.name!r} trains no net.name={net.name!r}: {known}")
        kind = ""
    if knobs.name in ("ask", "trades"):
        if knobs.adversary != "linf":
            raise ValueError(
                f"defense.name={knobs.name!r} perturbs images itself: give "
                "defense.adversary='linf', whose eps, steps and step_size it takes"
            )
        if knobs.beta < 0 or knobs.eps_ask < 0 or knobs.references < 1:
            raise ValueError(
                f"defense.beta={knobs.beta}, eps_ask={knobs.eps_ask}, references={knobs.references}: "
                "the first two must not be below 0, references at least 1"
            )
        if knobs.name == "ask" and not knobs.layers:
            raise ValueError("defense.layers is empty: name what ask counts neighbours in")
    if knobs.dim < 0 or knobs.count < 1 or not knobs.radius > 0:
        raise ValueError(
            f"defense.dim={knobs.dim}, count={knobs.count}, radius={knobs.radius}: dim must not be "
            "below 0, count at least 1, radius above 0"
        )
    if knobs.name == "repulsive" and size == "pixels":
        raise ValueError("defense.name='repulsive' trains no net.name='pixels': use 'mnist_vgg', ...")
    if knobs.name == "prototypes" and knobs.distance != "l2":
        raise ValueError(
            f"defense.distance={knobs.distance!r}: prototypes are trained for their radius in l2"
        )
    if knobs.name == "prototypes" and len(knobs.layers) > 1:
        raise ValueError(f"defense.layers={knobs.layers}: prototypes lie in one")
    if knobs.name == "prototypes" and size != "pixels" and not knobs.layers:
        raise ValueError("defense.layers is empty: name the layer that prototypes lie in")
    if knobs.temperature < 0:
        raise ValueError(f"defense.temperature={knobs.temperature}: it must not be below 0")
    if knobs.pull < 0 or not (knobs.decay > 0 and knobs.near >= 0):
        raise ValueError(
            f"defense.pull={knobs.pull}, decay={knobs.decay}, near={knobs.near}: decay must be above "
            "0, the others not below"
        )
    if knobs.name == "prototypes" and kind in ("", "lipschitz"):
        kind = ""  # on any features
    kinds = {"autoencoder", "vae", "lipschitz", "idresnet"}
    needed = "idresnet" if knobs.name == "noisy" else knobs.name if knobs.name in kinds else ""
    if size != "pixels" and kind != needed:
        other = f"{size}_{needed}" if needed else size
        raise ValueError(f"defense.name={knobs.name!r} trains no net.name={net.name!r}: use {other!r}")
    if knobs.adversary != "none" and not (knobs.steps > 0 and knobs.step_size > 0 and knobs.eps >= 0):
        raise ValueError(
            f"defense.steps={knobs.steps}, step_size={knobs.step_size}, eps={knobs.eps}: the first two "
            "must be above 0, eps not below"
        )
    if knobs.adversary == "none" and knobs.eps:
        raise ValueError(f"defense.eps={knobs.eps} without an adversary: give defense.adversary")
    if knobs.adversary == "linf" and knobs.eps == 0:
        raise ValueError("defense.eps=0 with adversary='linf': give the radius of its ball")


def _check_racnn(knobs: config.Defense, net: config.Net) -> None:
    kind = net.name.partition("_")[2]
    if kind != "racnn" or knobs.name != "racnn":
        raise ValueError(
            f"defense.name={knobs.name!r} trains no net.name={net.name!r}: 'racnn' trains "
            "'small_racnn', 'cifar10_racnn', ..., and no other does"
        )
    size = net.name.partition("_")[0]
    if (size == "imagenet") > net.frozen or (net.frozen and size not in ("imagenet", "digits")):
        raise ValueError(
            f"net.frozen={net.frozen} with net.name={net.name!r}: it is for 'imagenet_racnn' and "
            "'digits_racnn', and the former has no other"
        )
    if len(knobs.layers) != 1:
        raise ValueError(
            f"defense.layers={knobs.layers}: name the one whose features racnn retrieves by"
        )
    if knobs.neighbors < 2 or knobs.ce_steps < 1 or knobs.mixup_steps < 0 or knobs.project < 0:
        raise ValueError(
            f"defense.neighbors={knobs.neighbors}, ce_steps={knobs.ce_steps}, "
            f"mixup_steps={knobs.mixup_steps}, project={knobs.project}: at least 2, 1, 0 and 0"
        )
    if knobs.adversary != "none":
        raise ValueError(f"defense.adversary={knobs.adversary!r}: racnn is trained on clean images")
