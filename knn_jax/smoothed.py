"""Smooths a recipe's classifier and certifies it chunk by chunk, in the original's format."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from knn_jax import entries, progress
from knn_jax.certificates import ABSTAIN, Smoothed, certified, check_smoothing, sampled
from knn_jax.chunks import Chunks
from knn_jax.config import Config
from knn_jax.files import whole
from knn_jax.recipes import Defended

HEAD = "idx\tlabel\tpredict\tradius\tcorrect\ttime"


def check(recipe: Config) -> None:
    """Raises ValueError for what smoothing cannot be given."""
    knobs = recipe.certify
    if knobs.smoothing:
        try:
            check_smoothing(knobs.smoothing, knobs.samples, knobs.alpha)
        except ValueError as error:
            raise ValueError(f"certify: {error}") from error


def certify(recipe: Config, defended: Defended, folder: Path) -> dict[str, Any]:
    """Writes smoothing.tsv, a line for each of the first test images, and returns what a report tells.

    There -1 stands for an abstention; a line's time is the mean over all images, in seconds. The entry
    is as that of a certificate, of another classifier: the smoothed one, with its own accuracy.
    """
    knobs, attack = recipe.certify, recipe.attack
    settings = ["certified", "smoothing", knobs.smoothing, knobs.samples, knobs.chunk, attack.seed]
    images = knobs.images or attack.images
    chunks = Chunks(settings, defended, images, knobs.chunk, attack.seed, folder)
    sigma = jnp.float32(knobs.smoothing)

    def one(model, key, x, y):
        chosen, tested = sampled(key, model, x, sigma, knobs.samples)
        return {"chosen": chosen, "tested": tested}

    outcome = chunks.outcome(one, f"smoothing by {knobs.smoothing:g}")
    counts = outcome.arrays["chosen"], outcome.arrays["tested"]
    found = certified(*counts, knobs.samples, knobs.smoothing, knobs.alpha)
    labels = defended.dataset.test.labels[:images]
    with whole(folder / "smoothing.tsv") as scratch:
        scratch.write_text(_lines(found, labels, outcome.seconds / images))
    right, abstains = found.predict == labels, float(np.mean(found.predict == ABSTAIN))
    progress.say(f"smoothed: abstains for {abstains:.3f}")
    name = f"smoothing by {knobs.smoothing:g}"
    return {
        **entries.certified(name, found.radius, right, attack.radii, outcome),
        "clean_acc": float(right.mean()),
        "abstains": abstains,
    }


def _lines(found: Smoothed, labels: np.ndarray, seconds: float) -> str:
    columns = zip(labels, *found, found.predict == labels, strict=True)
    lines = (
        f"{i}\t{label}\t{predict}\t{radius:.6g}\t{int(right)}\t{seconds:.3f}"
        for i, (label, predict, radius, right) in enumerate(columns)
    )
    return "\n".join([HEAD, *lines]) + "\n"
