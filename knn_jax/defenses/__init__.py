"""Ways to train a representation."""

from typing import Any

from knn_jax import config
from knn_jax.defenses.adversarial import adversarial
from knn_jax.defenses.autoencoder import autoencoder, vae
from knn_jax.defenses.basic import basic
from knn_jax.defenses.defense import STATISTICS, Batch, Defense
from knn_jax.defenses.lipschitz import lipschitz
from knn_jax.defenses.mixup import mixup
from knn_jax.defenses.soft_neighbors import soft_neighbors

__all__ = [
    "STATISTICS",
    "Batch",
    "Defense",
    "adversarial",
    "autoencoder",
    "basic",
    "build",
    "check",
    "lipschitz",
    "mixup",
    "soft_neighbors",
    "vae",
]


def build(knobs: config.Defense, net: Any) -> Defense:
    """The training that the recipe names."""
    match knobs.name:
        case "basic" | "rotation":
            found = basic(net)
        case "soft_neighbors":
            found = soft_neighbors(net, knobs.weight)
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
    if knobs.adversary == "none":
        return found
    return adversarial(found, knobs.adversary, knobs.eps, steps=knobs.steps, step_size=knobs.step_size)


def check(knobs: config.Defense, net: config.Net) -> None:
    """Raises ValueError for a net that this does not train, and for knobs out of range."""
    size, _, kind = net.name.partition("_")
    if kind == "resnet":
        if knobs.name not in ("basic", "rotation"):
            known = "use 'basic' or 'rotation'"
            raise ValueError(f"defense.name={knobs.name!r} trains no net.name={net.name!r}: {known}")
        kind = ""
    needed = knobs.name if knobs.name in ("autoencoder", "vae", "lipschitz") else ""
    if size != "pixels" and kind != needed:
        other = f"{size}_{needed}" if needed else size
        raise ValueError(f"defense.name={knobs.name!r} trains no net.name={net.name!r}: use {other!r}")
    if knobs.adversary != "none" and not (knobs.steps > 0 and knobs.step_size > 0 and knobs.eps >= 0):
        raise ValueError(
            f"defense.steps={knobs.steps}, step_size={knobs.step_size}, eps={knobs.eps}: the first two "
            "must be above 0, eps not below"
        )
    if knobs.adversary == "linf" and knobs.eps == 0:
        raise ValueError("defense.eps=0 with adversary='linf': give the radius of its ball")
