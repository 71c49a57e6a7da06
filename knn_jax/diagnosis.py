"""What the features and votes of a trained classifier say, chunk by chunk: paper 1's Table 4, DkNN's
credibility."""

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from knn_jax import analysis, data, recipes
from knn_jax.chunks import Chunks, Outcome
from knn_jax.classifiers import KNN
from knn_jax.config import Config
from knn_jax.evaluation import Attacked
from knn_jax.recipes import Defended
from knn_jax.workdir import digest


class Trust(NamedTuple):
    """Of images of one kind, one entry each."""

    credibility: np.ndarray
    confidence: np.ndarray


class Diagnosis(NamedTuple):
    """What was asked for: of the features, and of the votes by kind of image."""

    features: Outcome | None = None
    credibility: dict[str, Trust] | None = None


NOTHING = Diagnosis()


def check(recipe: Config, dataset: data.Dataset) -> None:
    """Raises ValueError, before any long work, for what cannot be measured."""
    knobs, tests = recipe.analyze, len(dataset.test.labels)
    for field, value in (("images", knobs.images), ("credibility", knobs.credibility)):
        if not 0 <= value <= tests:
            raise ValueError(f"analyze.{field}={value}: the test set has {tests} images")
    for field, value in (("steps", knobs.steps), ("chunk", knobs.chunk)):
        if value < 1:
            raise ValueError(f"analyze.{field}={value}: it must be at least 1")
    rows = recipes.bank_size(recipe, dataset)
    if knobs.images and not 2 <= knobs.neighbors <= rows:
        raise ValueError(
            f"analyze.neighbors={knobs.neighbors} asked of a bank of {rows} rows: use 2 to {rows}"
        )
    height, width = dataset.test.images.shape[1:3]
    if knobs.credibility and height != width:
        raise ValueError(
            f"analyze.credibility turns images, which must be square, and these are {height}x{width}: "
            "data.size makes them so"
        )


def diagnose(recipe: Config, defended: Defended, attacked: Attacked, folder: Path) -> Diagnosis:
    """What the recipe asks for."""
    knobs = recipe.analyze
    return Diagnosis(
        features(recipe, defended, folder) if knobs.images else None,
        credibility(recipe, defended, attacked, folder) if knobs.credibility else None,
    )


def features(recipe: Config, defended: Defended, folder: Path) -> Outcome:
    """Local dimension and Jacobian norm of the first layer at the first test images."""
    knobs = recipe.analyze

    def one(model, key, x, y):
        del key, y
        return {
            "lid": analysis.lid(model.first(x), model.banks[0], knobs.neighbors),
            "jacobian_norm": analysis.jacobian_norm(Partial(KNN.first, model), x, steps=knobs.steps),
        }

    settings = ["analysis", "features", knobs.neighbors, knobs.steps, knobs.chunk]
    chunks = Chunks(settings, defended, knobs.images, knobs.chunk, 0, folder)
    return chunks.outcome(one, "dimension and Jacobian norm")


def credibility(
    recipe: Config, defended: Defended, attacked: Attacked, folder: Path
) -> dict[str, Trust]:
    """Of test images, as they are and turned, of noise, and of what each attack found; the validation
    images calibrate them."""
    chunk = recipe.analyze.chunk

    def arrays(one, name, split, what):
        chunks = Chunks(
            ["credibility", name, chunk, digest(*split, *defended.dataset.valid)],
            *(defended, len(split.labels), chunk, 0, folder, split),
        )
        return chunks.outcome(one, what).arrays

    def nonconformity(model, key, x, y):
        del key
        other = analysis.nonconformity(model, x)
        return {"nonconformity": jnp.take_along_axis(other, y[:, None], 1)[:, 0]}

    held_out = arrays(nonconformity, "calibration", defended.dataset.valid, "calibrating")
    calibration = analysis.Calibration(jnp.sort(held_out["nonconformity"]))

    def one(model, key, x, y):
        del key, y
        found = analysis.credibility(model, calibration, x)
        return {"credibility": found.credibility, "confidence": found.confidence}

    kinds = _kinds(recipe, defended.dataset.test, attacked)
    images = np.concatenate(list(kinds.values()))  # one program for all of them
    split = data.Split(images, np.zeros(len(images), np.int32))
    found = arrays(one, "of", split, "credibility")
    ends = np.cumsum([len(images) for images in kinds.values()])
    parts = (np.split(found[key], ends[:-1]) for key in Trust._fields)
    return {name: Trust(*part) for name, *part in zip(kinds, *parts, strict=True)}


def _kinds(recipe: Config, test: data.Split, attacked: Attacked) -> dict[str, np.ndarray]:
    """The images whose credibility is compared."""
    clean = test.floats(0, recipe.analyze.credibility)
    kinds = {"clean": clean}
    for (name, norm), outcome in attacked.items():
        found = outcome.arrays["success"] & (outcome.arrays["norm"] > 0)
        if found.any():
            kinds[f"{name}_{norm}"] = outcome.arrays["image"][found]
    noise = np.random.default_rng(recipe.attack.seed).random(clean.shape, np.float32)
    return kinds | {"turned": data.turned(clean, 1), "noise": noise}


def summary(recipe: Config, found: Diagnosis) -> dict[str, Any]:
    """Its part of report.json: means, of the dimension over the images where it is finite."""
    told: dict[str, Any] = {}
    if found.features:
        arrays = found.features.arrays
        finite = arrays["lid"][np.isfinite(arrays["lid"])]
        told["analysis"] = {
            "layer": recipe.classifier.layers[0],
            "n": len(arrays["lid"]),
            "lid": float(finite.mean()) if len(finite) else None,
            "jacobian_norm": float(arrays["jacobian_norm"].mean()),
            "seconds": round(found.features.seconds, 3),
        }
    if found.credibility:
        told["credibility"] = [
            {"images": name, "n": len(trust.credibility)}
            | {key: float(values.mean()) for key, values in trust._asdict().items()}
            for name, trust in found.credibility.items()
        ]
    return told
