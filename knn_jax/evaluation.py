"""Attacks and certifies a trained classifier chunk by chunk, and resumes where it was stopped."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from knn_jax import attacks, balls, certificates, classifiers
from knn_jax.attacks import outcome
from knn_jax.chunks import Chunks, Outcome
from knn_jax.config import Config
from knn_jax.kinds import Run
from knn_jax.recipes import Defended

Attacked = dict[tuple[str, balls.Norm], Outcome]  # by label of the attack and norm
FLAGS = ("no_gradient", "exhausted")  # of `attacks.Found`, of each image; older outcomes have none


def predict(recipe: Config, defended: Defended, folder: Path) -> np.ndarray:
    """The class that every test image is given without an attack."""

    def one(model, key, x, y):
        del key
        votes = model.votes(x)
        right = classifiers.right(votes, y, outcome.named(model))  # also where it names several classes
        return {"clean": jnp.where(right, y, classifiers.predicted(votes))}

    chunk = recipe.certify.chunk
    chunks = Chunks(
        ["predict", "clean", chunk], defended, len(defended.dataset.test.labels), chunk, 0, folder
    )
    return chunks.outcome(one, "classifying the test images").arrays["clean"]


def attack(
    recipe: Config, defended: Defended, which: Run, folder: Path, *, run: bool = True
) -> Outcome | None:
    """An attack on the first test images: norm, success, image, the class it is changed to.

    Without `run`, what earlier runs left in the folder; None if that is not all of it.
    """
    knobs, (name, norm, source) = recipe.attack, which

    method, own = {
        "minimum_norm": (
            attacks.minimum_norm,
            {"norm": norm, "steps": knobs.steps, "starts": knobs.starts},
        ),
        "guided": (
            attacks.guided,
            {
                "steps": knobs.guided_steps,
                "constant": knobs.guided_constant,
                "learning_rate": knobs.guided_rate,
                "guides": knobs.guided_guides,
            },
        ),
        "hinged": (attacks.hinged, {}),
        "boundary": (attacks.boundary, {}),
        "fgsm": (attacks.fgsm, {"norm": norm}),
        "ifgsm": (attacks.ifgsm, {"norm": norm}),
        "deepfool": (attacks.deepfool, {"norm": norm}),
        "lbfgs": (attacks.lbfgs, {}),
    }[name]
    ours = name == "minimum_norm"
    images = knobs.images if ours else knobs.baseline_images or knobs.images

    def one(given, key, x, y):
        model, source = given
        follows = {} if source is None else {"source": source}
        found = method(key, model, x, y, **own, **follows)
        return kept(model, x, y, found)

    settings = [which.label, norm, own, knobs.chunk, knobs.seed]
    follows = defended.sources[source]
    chunks = Chunks(settings, defended, images, knobs.chunk, knobs.seed, folder, source=follows)
    chunks.model = defended.model, follows
    return chunks.outcome(one, f"{which.label} {norm}") if run or chunks.complete() else None


def kept(model: Any, x: Any, y: Any, found: attacks.Found) -> dict[str, Any]:
    """What is kept of an attack on each image; its norm is inf where nothing was found."""
    image, norm = found.image, found.norm
    votes = model.votes(image)
    own = jax.nn.one_hot(y, model.classes, dtype=bool)
    rest = jnp.where(own, votes.min(1, keepdims=True) - 1, votes)
    lost = ~classifiers.right(votes, y, outcome.named(model))
    success, length = jnp.isfinite(norm), balls.l2(0.0).norm(image - x)
    return {
        "image": image,
        "norm": norm,
        "success": success,
        "l2": jnp.where(success, length, jnp.inf),  # whatever the norm, for certificates
        "gradients": jnp.broadcast_to(found.gradients, y.shape),
        "no_gradient": jnp.broadcast_to(found.no_gradient, y.shape),
        "exhausted": jnp.broadcast_to(found.exhausted, y.shape),
        "adversarial": jnp.where(lost, classifiers.predicted(rest), y),
    }


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """For each image the attack that needed least, of those that were run on it.

    It had no gradient, or ran out of steps, where all of them did.
    """
    outcomes = sorted(outcomes, key=lambda o: -len(o.arrays["norm"]))  # so the first was run on all
    images = len(outcomes[0].arrays["norm"])

    def each(name, fill):
        """The attacks' arrays of that name, filled up to all images."""
        arrays = [outcome.arrays[name] for outcome in outcomes]
        full = [np.full((images, *array.shape[1:]), fill, array.dtype) for array in arrays]
        for filled, array in zip(full, arrays, strict=True):
            filled[: len(array)] = array
        return np.stack(full)

    least = each("norm", np.inf).argmin(0)
    names = set.intersection(*(set(outcome.arrays) for outcome in outcomes)) - {"trials"}
    arrays = {name: each(name, 0)[least, np.arange(images)] for name in sorted(names)}
    for flag in names & set(FLAGS):
        arrays[flag] = np.asarray(each(flag, True).all(0))
    arrays["gradients"] = each("gradients", 0).sum(0)
    seconds, compiling = sum(o.seconds for o in outcomes), sum(o.compile_seconds for o in outcomes)
    return Outcome(arrays, seconds, compiling)


def certify(recipe: Config, defended: Defended, name: str, folder: Path) -> Outcome:
    """One certificate of the first test images: their radii."""
    knobs = recipe.certify

    def one(model, key, x, y):
        del key
        constant = defended.lipschitz
        if name == "margin":
            radius = certificates.margin(model, x, y, lipschitz=constant)
        elif name == "exact":
            found = certificates.exact(model, x, y, lipschitz=constant)
            return {"radius": found.lower, "closed": found.closed}
        else:
            own, other = knobs.own, knobs.other
            radius = certificates.voronoi(model, x, y, lipschitz=constant, own=own, other=other)
        return {"radius": radius}

    settings = [name, defended.lipschitz, knobs.own, knobs.other, knobs.chunk]
    images = knobs.images or recipe.attack.images
    chunks = Chunks(settings, defended, images, knobs.chunk, 0, folder)
    return chunks.outcome(one, f"certifying by {name}")
