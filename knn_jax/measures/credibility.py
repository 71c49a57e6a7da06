"""The credibility of predictions: how well votes conform to those on held-out images."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from knn_jax import classifiers, data, values
from knn_jax.classifiers import GivenImages, GivenLabels, Images, Labels, Votes
from knn_jax.display import canvas
from knn_jax.measures.measure import Measure, Measured

PARTS = ("credibility", "confidence")


@values.value
class Credibility(Measure):
    """Credibility of test images as they are and turned, of noise, and of what each attack found.

    The validation images calibrate it.
    """

    images: int
    """Test images whose credibility is compared with that of adversarial, turned and noise images."""

    cites = "Papernot & McDaniel 2018, Deep k-Nearest Neighbors, arXiv:1803.04765"

    def __post_init__(self):
        values.at_least(1, images=self.images)

    def check(self, dataset, bank_rows):
        """Raises ValueError also for images that cannot be turned."""
        super().check(dataset, bank_rows)
        height, width = dataset.test.images.shape[1:3]
        if height != width:
            raise ValueError(
                f"Credibility turns images, which must be square, and these are {height}x{width}: "
                "data.size makes them so"
            )

    def run(self, context):
        """The mean credibility of each kind of image, and a picture of its distribution."""

        def calibrating(model, key, x, y):
            del key
            found = nonconformity(model, x)
            return {"nonconformity": jnp.take_along_axis(found, y[:, None], 1)[:, 0]}

        held_out = context.over("calibration", calibrating, context.dataset.valid, [])["nonconformity"]
        calibration = Calibration(jnp.sort(jnp.asarray(held_out)))

        def conforming(model, key, x, y):
            del key, y
            found = credibility(model, calibration, x)
            return {part: getattr(found, part) for part in PARTS}

        kinds = self._kinds(context)
        images = np.concatenate(list(kinds.values()))  # one program for all of them
        split = data.Split(images, np.zeros(len(images), np.int32))
        arrays = context.over("credibility", conforming, split, np.bincount(held_out).tolist())
        ends = np.cumsum([len(images) for images in kinds.values()])[:-1]
        parts = zip(*(np.split(arrays[part], ends) for part in PARTS), strict=True)
        found = {
            kind: dict(zip(PARTS, one, strict=True)) for kind, one in zip(kinds, parts, strict=True)
        }
        told = [
            {"images": kind, "n": len(one["credibility"])}
            | {part: float(numbers.mean()) for part, numbers in one.items()}
            for kind, one in found.items()
        ]
        shown = {kind: one["credibility"] for kind, one in found.items()}
        return Measured({"credibility": told}, {}, {"credibility.png": draw(context.name, shown)})

    def _kinds(self, context) -> dict[str, np.ndarray]:
        """The images whose credibility is compared."""
        clean = context.dataset.test.floats(0, self.images)
        kinds = {"clean": clean}
        for label, arrays in context.attacked.items():
            changed = arrays["success"] & (arrays["norm"] > 0)
            if changed.any():
                kinds[label] = arrays["image"][changed]
        noise = np.random.default_rng(context.seed).random(clean.shape, np.float32)
        return kinds | {"turned": data.turned(clean, 1), "noise": noise}


class Calibration(NamedTuple):
    """Nonconformities of held-out images and their labels, ascending; from `calibrate`."""

    nonconformity: Int[Array, " held_out"]


class ConformalPrediction(NamedTuple):
    """Predictions, and how well they conform to the held-out images (Papernot & McDaniel 2018).

    prediction   the class with most votes, the lowest among equals; -1 where nobody votes
    credibility  its p-value
    confidence   1 less the second largest p-value
    p            of each class: the share of held-out images that conform no better
    """

    prediction: Labels
    credibility: Float[Array, " batch"]
    confidence: Float[Array, " batch"]
    p: Float[Array, "batch class"]


def calibrate(model: Votes, x: GivenImages, y: GivenLabels) -> Calibration:
    """How many neighbours of each image, all layers together, are not of its class y.

    The images must not be in the bank, where each would be its own neighbour. Raises ValueError for
    images outside [0, 1], labels out of range, and no images.
    """
    x = classifiers.check_images(x)
    y = classifiers.check_labels(y, len(x), model.classes)
    return Calibration(jnp.sort(jnp.take_along_axis(nonconformity(model, x), y[:, None], 1)[:, 0]))


def credibility(model: Votes, calibration: Calibration, x: GivenImages) -> ConformalPrediction:
    """Predictions with p-values: high if the held-out images had as many neighbours of other classes.

    A class's p-value is the share of the calibration's nonconformities that are at least its own:
    among images like the held-out ones, the true class has one below t with a probability of about t.
    """
    votes, held_out = model.votes(classifiers.check_images(x)), calibration.nonconformity
    other = _others(model, votes)
    p = (len(held_out) - jnp.searchsorted(held_out, other)) / len(held_out)
    second, best = jnp.sort(p, 1)[:, -2:].T
    return ConformalPrediction(classifiers.predicted(votes), best, 1 - second, p)


def nonconformity(model: Votes, x: Images) -> Int[Array, "batch class"]:
    """How many neighbours of each image, all layers together, are not of each class: all where features
    are no numbers, which have no neighbours."""
    return _others(model, model.votes(x))


def _others(model, votes):
    return model.k * len(model.banks) - votes


def draw(title: str, kinds: Mapping[str, Float[np.ndarray, " image"]]) -> bytes:
    """A picture of the share of images with at most each credibility, for each kind of image."""
    figure, [[axis]] = canvas.axes(1, 1, (6.4, 4))
    colors = {"clean": "C0", "turned": "C2", "noise": "C7"}
    attacks = iter(("C3", "C1", "C4", "C5", "C6"))
    widths = np.linspace(4, 1.5, len(kinds))  # curves may coincide
    for width, (name, found) in zip(widths, kinds.items(), strict=True):
        color = colors.get(name) or next(attacks, "black")
        ends = np.sort(found)
        share = np.arange(len(ends) + 1) / len(ends)
        style = {"color": color, "linewidth": width, "label": f"{name}: mean {ends.mean():.2f}"}
        axis.step(np.r_[0, ends, 1.02], np.r_[share, 1], where="post", **style)
    axis.set(xlabel="credibility", ylabel="share of images with at most this credibility")
    axis.set(xlim=(0, 1.02), ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    axis.set_title(title, fontsize=10)
    return canvas.png(figure)
