"""Attacks at fixed radii on a trained classifier, chunk by chunk."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from knn_jax import attacks, config, data, defenses, kinds, losses, progress
from knn_jax.chunks import Chunks, Outcome
from knn_jax.config import Config
from knn_jax.defenses import Batch
from knn_jax.evaluation import kept
from knn_jax.kinds import KINDS, Run
from knn_jax.recipes import Defended, bank, bank_size

CONFIDENT = 50  # neighbours by whose votes images are told apart that resist ask (paper 4, VI.A)


def check(recipe: Config, dataset: data.Dataset) -> None:
    """Raises ValueError, before any long work, for what attacks in balls cannot be given."""
    knobs = recipe.ball
    for name in ("step_size", "temperature", "slope", "steps", "restarts", "trials", "epochs"):
        if not getattr(knobs, name) > 0:
            raise ValueError(f"ball.{name}={getattr(knobs, name)}: it must be above 0")
    for name in ("refresh", "refresh_ask", "tune", "k", "others"):
        if getattr(knobs, name) < 0:
            raise ValueError(f"ball.{name}={getattr(knobs, name)}: it must not be below 0")
    if knobs.tune and knobs.temperature != config.Ball().temperature:
        raise ValueError(
            f"ball.temperature={knobs.temperature} beside ball.tune={knobs.tune}: give one"
        )
    inside = {name for name, _, _ in kinds.runs(recipe.attack) if KINDS[name].ball}
    if inside == {"kfgsm"} and (knobs.restarts > 1 or knobs.trials > 1):
        raise ValueError(
            f"ball.restarts={knobs.restarts}, trials={knobs.trials}: kfgsm draws nothing, so give 1"
        )
    tests, rows = len(dataset.test.labels), bank_size(recipe, dataset)
    if knobs.tune > tests:
        raise ValueError(f"ball.tune={knobs.tune}: the test set has {tests} images")
    for name in ("k", "others"):
        if getattr(knobs, name) > rows:
            raise ValueError(f"ball.{name}={getattr(knobs, name)} asked of a bank of {rows} rows")
    for name, norm, _ in kinds.runs(recipe.attack):
        field, radii = "radii" if norm == "l2" else "radii_linf", recipe.attack.within(norm)
        if KINDS[name].ball and not (radii and min(radii) >= 0):
            raise ValueError(f"attack.{field}={radii}: {name} needs radii of 0 or more")


def attack(
    recipe: Config, defended: Defended, which: Run, folder: Path, *, run: bool = True
) -> Outcome | None:
    """An attack in the ball of each of the recipe's radii, on the first test images.

    `norm` is the least perturbation found in any of them, `success` whether there is one, and so on, of
    the first trial; `trials` has each trial's norms. Without `run`, what earlier runs left in the
    folder; None if that is not all of it.
    """
    knobs, inside, (name, norm, source) = recipe.attack, recipe.ball, which
    radii = jnp.asarray(knobs.within(norm), jnp.float32)
    drawn = name != "kfgsm"  # which starts at the image itself: once is as often as you like
    restarts, trials = (inside.restarts, inside.trials) if drawn else (1, 1)
    own = {"norm": norm, "steps": inside.steps, "restarts": restarts}
    settings = [which.label, norm, dataclasses.asdict(inside), radii.tolist(), knobs.chunk, knobs.seed]
    images = knobs.baseline_images or knobs.images
    follows = defended.sources[source]
    chunks = Chunks(settings, defended, images, knobs.chunk, knobs.seed, folder, source=follows)
    if not chunks.complete():
        if not run:
            return None
        chunks.model = _Given(defended.model, *_prepared(recipe, defended, which))

    def method(key, given, x, y, eps):
        size = {"step_size": inside.step_size * eps}
        match name:
            case "pgd":
                refresh = 0 if source == "held" else inside.refresh  # held: those of the clean image
                extra = {"refresh": refresh, "source": given.source}
                return attacks.pgd(key, given.model, x, y, eps=eps, **extra, **own, **size)
            case "pgd_loss":
                return attacks.pgd(key, given.model, x, y, eps=eps, loss=given.source, **own, **size)
            case "kfgsm":
                force: dict[str, Any] = {"decay": recipe.defense.decay, "near": recipe.defense.near}
                force |= {"norm": norm, "steps": inside.steps, **size}
                return attacks.kfgsm(key, given.model, x, y, eps=eps, **force)
            case "dknn":
                extra = {"slope": inside.slope, "metric": inside.metric}
                return attacks.dknn(key, given.model, x, y, eps=eps, **extra, **own, **size)
            case "adv_knn":
                imitation = given.source
                return attacks.adv_knn(
                    key, given.model, x, y, imitation=imitation, eps=eps, **own, **size
                )
        extra = _ask(inside) | {"temperature": given.temperature, "weights": given.weights}
        return attacks.ask(key, given.model, x, y, source=given.source, eps=eps, **extra, **own, **size)

    def one(given, key, x, y):
        def trial(key):
            def ball(eps):
                found = method(key, given, x, y, eps)
                return found.image, found.norm, found.no_gradient

            image, norms, no_gradient = lax.map(ball, radii)
            least = norms.argmin(0)
            chosen = jnp.take_along_axis(image, least.reshape(1, -1, 1, 1, 1), 0)[0]
            return chosen, norms.min(0), no_gradient.all(0)

        images, norms, no_gradient = lax.map(trial, jax.random.split(key, trials))
        image, length = images[0], norms[0]
        gradients = jnp.asarray(len(radii) * inside.steps * restarts)
        first = attacks.Found(
            image, length, jnp.isfinite(length), gradients, jnp.asarray(0), no_gradient[0]
        )
        found = kept(given.model, x, y, first) | {"trials": norms.T}
        if name == "ask":
            for knob in ("temperature", "weights"):
                value = getattr(given, knob)
                found[knob] = jnp.broadcast_to(value[None], (len(y), *value.shape))
            tells = {"temperature": given.temperature, "weights": given.weights}
            for what, images in (("clean", x), ("adversarial", image)):
                told = attacks.information(given.source, x, y, images, metric=inside.metric, **tells)
                found[f"information_{what}"] = told
            rows = min(CONFIDENT, len(given.model.labels))
            votes = dataclasses.replace(given.model, k=rows).votes(x)
            found["confidence"] = votes.max(1) / votes.sum(1)
        return found

    return chunks.outcome(one, f"{which.label} {norm}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Given:
    """What an attack is given, as arguments of its program."""

    model: Any
    source: Any  # whose gradients are followed, or the imitation that adv_knn takes them of
    temperature: Any
    weights: Any


def _ask(inside: config.Ball) -> dict[str, Any]:
    """The settings of ask that are not searched."""
    return {
        "refresh": inside.refresh_ask,
        "k": inside.k or None,
        "others": inside.others or inside.k or None,
        "metric": inside.metric,
        "targeted": inside.targeted,
        "drawn": inside.drawn,
    }


def _loss(recipe: Config, defended: Defended, source: str) -> Partial:
    """The loss that the network was trained with, on images as they are, or another's cross-entropy."""
    if source != "model":
        return Partial(_cross_entropy, defended.sources[source])
    net, variables = defended.net
    plain = dataclasses.replace(recipe.defense, adversary="none", eps=0.0, noise="none")
    defense = defenses.build(plain, net)
    return Partial(functools.partial(_trained_loss, defense.loss), variables)


def _cross_entropy(network, x, y):
    return losses.cross_entropy(network.logits(x), y)


def _trained_loss(loss, variables, x, y):
    every = jnp.ones(len(x), bool)
    return loss(variables, jax.random.key(0), Batch(x, x, y, every))


def _prepared(recipe: Config, defended: Defended, which: Run) -> tuple:
    """The source, and ask's temperatures and weights."""
    inside, model, key = recipe.ball, defended.model, jax.random.key(recipe.attack.seed)
    name, norm, _ = which
    if name == "adv_knn":
        progress.say(f"imitating the vote for {inside.epochs} epochs")
        return attacks.imitate(key, model, epochs=inside.epochs), None, None
    if name == "pgd_loss":
        return _loss(recipe, defended, which.source), None, None
    if name != "ask":
        return defended.sources[which.source], None, None
    source = model
    if inside.layers and inside.layers != recipe.classifier.layers:
        source = bank(recipe, defended.net, defended.dataset, inside.layers)
    taps = len(source.banks)
    if not inside.tune:
        return source, jnp.full(taps, inside.temperature), jnp.full(taps, 1 / taps)
    progress.say(f"choosing ask's temperature and weights on {inside.tune} images")
    radii = recipe.attack.within(norm)
    test, eps = defended.dataset.test, radii[len(radii) // 2]
    x, y = jnp.asarray(test.floats(0, inside.tune)), jnp.asarray(test.labels[: inside.tune])
    settings = {"norm": norm, "steps": inside.steps, "step_size": inside.step_size * eps}
    temperature, weights = attacks.tune(
        key, model, x, y, source=source, eps=eps, **settings, **_ask(inside)
    )
    progress.say(f"temperature {temperature.tolist()}, weights {weights.tolist()}")
    return source, temperature, weights
