"""Towards the nearest group of another class, counted by sigmoids."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from knn_jax import balls, losses, neighbors, values
from knn_jax.attacks.ascent import Ascent, relative
from knn_jax.attacks.attack import Found
from knn_jax.classifiers import GivenImages, GivenLabels, Votes
from knn_jax.neighbors.metric import check_metric
from knn_jax.values.given import Real

SAMPLE = 1000  # rows of the bank that the thresholds are measured on


@values.value
class DKNN(Ascent):
    """Projected gradient ascent towards the nearest rows of another class (Sitawarin & Wagner 2019).

    The loss is the sum of sigmoid(slope * (s - threshold)) over the rows nearest to x of the nearest
    other class, averaged over layers. s is their similarity to the image, and the threshold what the
    k-th neighbour has on average, measured on 1,000 rows of the bank (the authors' code had four
    numbers measured once on one image). Where s is minus a distance, both are divided by the mean one.
    On its own the attack searched a constant; inside a ball it is a baseline of Wang et al. 2021
    (tables 1 and 2), who choose the slope for each of their tables.
    """

    step_size: float = 0.25
    """Length of a step as a share of eps."""
    guides: int | None = None
    """Rows of the other class that the image is drawn to; None: the classifier's k."""
    slope: float = 4.0
    """Slope of the sigmoid that counts a row as nearer than the threshold."""
    metric: neighbors.Metric = neighbors.Cosine()
    """Similarity s of features: their cosine, or minus another distance."""

    needs = Votes
    whole = True
    cites = "Sitawarin & Wagner 2019, On the Robustness of Deep K-Nearest Neighbors, arXiv:1903.08333"

    def __post_init__(self):
        super().__post_init__()
        values.at_least(1, guides=self.guides)
        values.above(0, slope=self.slope)
        check_metric(self.metric)

    def check_plan(self, plan):
        """Also for prototypes, of which how one fares among the others says nothing."""
        super().check_plan(plan)
        if not plan.of_images:
            raise ValueError(f"{type(self).__name__} learns from images that vote: use fit.KNN(...)")

    def search(self, key, model, source, x, y, norm, eps):
        """The ascent up the number of rows of another class that are near."""
        count = model.k if self.guides is None else self.guides
        thresholds = [_threshold(model, bank, self.metric) for bank in model.banks]

        def retrieve(_, z, y):
            near = model.guides(z, y, count)
            return tuple(rows[:, 1:] for rows in near.features), near.there[:, 1]

        def loss(z, y, retrieved):
            references, there = retrieved
            total = jnp.zeros(len(z), z.dtype)
            for query, rows, threshold in zip(model.features(z), references, thresholds, strict=True):
                alike = losses.similarity(query, rows, self.metric)[:, 0]
                cosine = isinstance(self.metric, neighbors.Cosine)
                nearer = alike - threshold if cosine else 1 - alike / threshold
                total += jnp.sum(jnp.where(there, losses.sigmoid(self.slope * nearer), 0.0), -1)
            return total / len(thresholds)

        return self.ascend(key, model, x, y, retrieve, loss, norm, eps)


def dknn(
    key: Array,
    model: Votes,
    x: GivenImages,
    y: GivenLabels,
    *,
    eps: Real,
    norm: balls.Norm = "linf",
    steps: int = 20,
    step_size: Real | None = None,
    restarts: int = 1,
    guides: int | None = None,
    slope: float = 4.0,
    metric: neighbors.Metric | neighbors.Name = "cosine",
) -> Found:
    """`DKNN` inside the eps-ball around x; `step_size` is in units of the images, eps / 4 unless given.

    Raises ValueError for images outside [0, 1], labels out of range and numbers that are too small.
    """
    share = DKNN.step_size if step_size is None else relative(step_size, eps)
    made = DKNN(steps, share, restarts, guides, slope, neighbors.named(metric))
    return made(key, model, x, y, norm=norm, eps=eps)


def _threshold(model, bank, metric):
    """What a row's k-th neighbour is like to it, on average, itself left out."""
    sample = bank[: min(SAMPLE, len(bank))]
    rows = jnp.arange(len(bank))
    k = min(model.k, len(bank) - 1)
    near = model.nearest(sample, bank, k, labels=rows, without=rows[: len(sample)])
    last = bank[near.index[:, -1]]
    return lax.stop_gradient(losses.similarity(sample, last[:, None, None], metric).mean())
