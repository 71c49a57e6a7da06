"""Attacks on the first test images: for the smallest perturbation, and in the ball of each radius."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from knn_jax import balls, classifiers, values
from knn_jax.attacks import Attack, BallAttack, Found, MinimizationAttack
from knn_jax.classifiers import Images, Labels
from knn_jax.data import Dataset
from knn_jax.display import progress
from knn_jax.evaluation.resumable import Results, Resumable
from knn_jax.recipe import Evaluate, Recipe
from knn_jax.recipe.fit import System
from knn_jax.recipe.planned import Planned
from knn_jax.workdir import Place

NORMS: tuple[balls.Norm, ...] = ("l2", "linf")
FLAGS: Final = ("no_gradient", "exhausted")  # of `attacks.Found`, of each image


class Run(NamedTuple):
    """One attack, as it is asked for."""

    name: str
    """Its name in the recipe."""
    attack: Attack
    norm: balls.Norm
    """In which it is measured."""
    source: str = "model"
    """Whose gradients it follows."""

    @property
    def label(self) -> str:
        """Name and source, where that is not the classifier itself."""
        return self.name if self.source == "model" else f"{self.name} on {self.source}"


Attacked = dict[tuple[str, balls.Norm], Results]  # by label of the run and norm


def runs(recipe: Recipe) -> list[Run]:
    """Each of the recipe's attacks with each norm and source that it has."""
    asked = recipe.evaluate
    return [
        Run(name, attack, norm, source)
        for name, attack in recipe.attacks.items()
        for norm in asked.norms
        if norm in attack.norms
        for source in (asked.sources if attack.follows else ("model",))
    ]


def sources(recipe: Recipe) -> set[str]:
    """Whose gradients the recipe's attacks follow."""
    return {run.source for run in runs(recipe)}


def predict(recipe: Recipe, system: System, folder: Place) -> np.ndarray:
    """The class that every test image is given without an attack."""

    def one(model, key, x, y):
        del key
        votes = model.votes(x)
        right = classifiers.right(votes, y, model.top)  # also where it names several classes
        return {"clean": jnp.where(right, y, classifiers.predicted(votes))}

    images, chunk = len(system.dataset.test.labels), recipe.evaluate.certified_chunk
    found = Resumable("predict", None, system, images, chunk, folder)
    return found.results(one, "classifying the test images").arrays["clean"]


def attack(
    recipe: Recipe, system: System, run: Run, folder: Place, *, compute: bool = True
) -> Results | None:
    """An attack on the first test images: norm, success, image, the class it is changed to, ...

    Of an attack in balls `norm` is the least perturbation found in any of the recipe's radii, of the
    first trial; `trials` has each trial's norms. Without `compute`, what earlier runs left in the
    folder; None if that is not all of it.
    """
    asked, source = recipe.evaluate, system.sources[run.source]
    settings = [run.label, values.told(run.attack), run.norm, asked.within(run.norm), asked.trials]
    if isinstance(run.attack, MinimizationAttack):
        settings[3:] = []
    name = f"{run.label} {run.norm}"
    images = asked.count(run.attack)
    code = run.attack, *((type(system.defense),) if run.attack.up_the_loss else ())
    kept_with = {"seed": asked.seed, "source": source, "code": code}
    chunks = Resumable(name, settings, system, images, asked.chunk, folder, **kept_with)
    if not chunks.complete():
        if not compute:
            return None
        key = jax.random.key(asked.seed)
        if type(run.attack).prepare is not Attack.prepare:
            progress.say(f"preparing {name}")
        made, source = run.attack.prepare(key, system, source, run.norm, asked.within(run.norm))
        chunks.given = values.arrays(made), system.model, source
    return chunks.results(_program(run, asked), name)


def _program(run: Run, asked: Evaluate) -> Callable[..., dict[str, Array]]:
    """What is computed of a chunk, as a function of the attack, the classifier and its source."""
    radii = jnp.asarray(asked.within(run.norm), jnp.float32)
    trials = asked.trials if run.attack.draws else 1

    def smallest(given, key, x, y):
        made, model, source = given
        found = made(key, model, x, y, norm=run.norm, source=source)
        return kept(model, x, y, found) | made.more(model, source, x, y, found.image)

    def in_balls(given, key, x, y):
        made, model, source = given

        def trial(key):
            def ball(eps):
                found = made(key, model, x, y, norm=run.norm, eps=eps, source=source)
                return found.image, found.norm, found.no_gradient, found.gradients

            image, norms, no_gradient, gradients = lax.map(ball, radii)
            least = norms.argmin(0)
            chosen = jnp.take_along_axis(image, least.reshape(1, -1, 1, 1, 1), 0)[0]
            return chosen, norms.min(0), no_gradient.all(0), gradients.sum()

        images, norms, no_gradient, gradients = lax.map(trial, jax.random.split(key, trials))
        image, length = images[0], norms[0]
        counts = gradients[0], jnp.asarray(0)
        first = Found(image, length, jnp.isfinite(length), *counts, no_gradient[0])
        found = kept(model, x, y, first) | {"trials": norms.T}
        return found | made.more(model, source, x, y, image)

    return in_balls if isinstance(run.attack, BallAttack) else smallest


def kept(model: classifiers.Scores, x: Images, y: Labels, found: Found) -> dict[str, Array]:
    """What is kept of an attack on each image; its norm is inf where nothing was found."""
    image, norm = found.image, found.norm
    votes = model.votes(image)
    own = jax.nn.one_hot(y, model.classes, dtype=bool)
    rest = jnp.where(own, votes.min(1, keepdims=True) - 1, votes)
    lost = ~classifiers.right(votes, y, model.top)
    success, delta = jnp.isfinite(norm), image - x
    return {
        "image": image,
        "norm": norm,
        "success": success,
        **{  # whatever the norm of the attack, for certificates
            kind: jnp.where(success, balls.ball(kind, 0.0).norm(delta), jnp.inf) for kind in NORMS
        },
        "gradients": jnp.broadcast_to(found.gradients, y.shape),
        "no_gradient": jnp.broadcast_to(found.no_gradient, y.shape),
        "exhausted": jnp.broadcast_to(found.exhausted, y.shape),
        "adversarial": jnp.where(lost, classifiers.predicted(rest), y),
    }


def worst(every: Sequence[Results]) -> Results:
    """For each image the attack that needed least, of those that were run on it.

    It had no gradient, or ran out of steps, where all of them did.
    """
    every = sorted(every, key=lambda o: -len(o.arrays["norm"]))  # so the first was run on all
    images = len(every[0].arrays["norm"])

    def each(name, fill):
        """The attacks' arrays of that name, filled up to all images."""
        arrays = [one.arrays[name] for one in every]
        full = [np.full((images, *array.shape[1:]), fill, array.dtype) for array in arrays]
        for filled, array in zip(full, arrays, strict=True):
            filled[: len(array)] = array
        return np.stack(full)

    least = each("norm", np.inf).argmin(0)
    names = set.intersection(*(set(one.arrays) for one in every)) - {"trials"}
    arrays = {name: each(name, 0)[least, np.arange(images)] for name in sorted(names)}
    for flag in names & set(FLAGS):
        arrays[flag] = np.asarray(each(flag, True).all(0))
    arrays["gradients"] = each("gradients", 0).sum(0)
    seconds, compiling = sum(o.seconds for o in every), sum(o.compile_seconds for o in every)
    return Results(arrays, seconds, compiling)


def check(recipe: Recipe, dataset: Dataset) -> None:
    """Raises ValueError for attacks that the recipe cannot run, before any long work."""
    asked, planned = recipe.evaluate, runs(recipe)
    plan = Planned(recipe.defense, recipe.classifier, dataset)
    plan.check("attacks", recipe.attacks)
    for name, attack in recipe.attacks.items():
        if name not in {run.name for run in planned}:
            has = " and ".join(attack.norms)
            raise ValueError(f"evaluate.norms={asked.norms}: {name} has {has} only")
        which = "images" if asked.count(attack) == asked.images else "baseline_images"
        plan.check_images(which, asked.count(attack))
        for norm in asked.norms:
            if isinstance(attack, BallAttack) and norm in attack.norms and not asked.within(norm):
                field = "radii" if norm == "l2" else "radii_linf"
                raise ValueError(f"evaluate.{field} is empty: {name} needs at least one radius")
    for source in asked.sources if planned else ():
        if source not in sources(recipe):
            raise ValueError(
                f"evaluate.sources={source}: none of the recipe's attacks follows another's gradients"
            )
    drawing = [a for a in recipe.attacks.values() if isinstance(a, BallAttack) and a.draws]
    if asked.trials > 1 and not drawing:
        raise ValueError(
            f"evaluate.trials={asked.trials}: no attack in a ball draws anything, so give 1"
        )
