"""The ASK attack: class by class similarity to the nearest rows, ascended inside a ball."""

import dataclasses
from collections.abc import Sequence
from typing import Unpack

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from knn_jax import balls, neighbors, values
from knn_jax.attacks import ask_loss
from knn_jax.attacks.ascent import Ascent, relative
from knn_jax.attacks.ask_settings import ByLayer, Settings, by_layer
from knn_jax.attacks.attack import Found, Number
from knn_jax.classifiers import GivenImages, GivenLabels, Scores, Votes, require
from knn_jax.neighbors.metric import check_metric
from knn_jax.values import given
from knn_jax.values.given import Real

TEMPERATURES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # l2 wants larger ones than cosine
TEMPERATURE = (0.03,)
SHARES = 5  # weights of a layer that `tune` tries, from 0 to 1
CONFIDENT = 50  # neighbours by whose votes images that resist are told apart (Wang et al., VI.A)


@values.value
class ASK(Ascent):
    """Projected gradient ascent of the adversarial soft k-nearest neighbour loss (Wang et al. 2021).

    The loss of a layer is -log of the share of class y, where each class has the mass exp(mean of
    similarity / temperature) of its nearest rows (eq. 4 and 5, algorithm 1). A source is a classifier
    of other layers or another k: the loss and its k are of that one, and the classifier attacked is
    asked for decisions only (the paper's gray box).
    """

    step_size: float = 0.25
    """Length of a step as a share of eps; the paper's 2/255 within 8/255."""
    refresh: int = 0
    """Steps between two retrievals of the references; 0: those of the clean image throughout, as in
    the paper."""
    k: int | None = None
    """Nearest rows of the image's own class in the loss; None: the classifier's k."""
    others: int | None = None
    """Nearest rows of each other class in the loss; None: the classifier's k."""
    metric: neighbors.Metric = neighbors.Cosine()
    """Similarity of features in the loss: their cosine, or minus another distance."""
    temperature: tuple[float, ...] = TEMPERATURE
    """Temperature of the similarities in the loss, one number for all layers or one for each."""
    weights: tuple[float, ...] = ()
    """Weight of each layer's loss; (): 1 / layers."""
    targeted: bool = False
    """Whether the loss knows only two classes: that of the image, and the one nearest on average."""
    drawn: bool = False
    """Whether rows of other classes are drawn at random instead of the nearest."""
    tune: int = 0
    """Test images on which temperature and weights are chosen beforehand; 0: they are as given."""
    layers: tuple[str, ...] = ()
    """Layers of the network whose features are attacked; (): those the classifier votes on."""

    needs = Scores
    follows = Votes
    cites = "Wang et al. 2021, ASK, arXiv:2106.14300"

    def __post_init__(self):
        super().__post_init__()
        values.at_least(0, refresh=self.refresh, weights=self.weights, tune=self.tune)
        values.at_least(1, k=self.k, others=self.others)
        values.above(0, temperature=self.temperature)
        check_metric(self.metric)
        known = not any(isinstance(weight, Tracer) for weight in self.weights)
        if self.weights and known and not np.any(self.weights):
            raise ValueError(f"weights={self.weights}: they must be 0 or more, and not all 0")
        if not self.temperature:
            raise ValueError("temperature=(): give one for all layers, or one for each")
        if self.tune and (self.temperature != TEMPERATURE or self.weights):
            given = f"temperature={self.temperature}, weights={self.weights}"
            raise ValueError(f"{given} beside tune={self.tune}, which chooses them: give one")

    def check_plan(self, plan):
        """Also for layers, rows and test images that there are not."""
        super().check_plan(plan)
        if self.layers:
            plan.check_layers(self.layers)
        self._check_counts(len(self.layers or plan.layers), plan.rows)
        if self.tune > plan.tests:
            raise ValueError(f"tune={self.tune}: the test set has {plan.tests} images")

    def prepare(self, key, victim, source, norm, radii):
        """Temperature and weights are chosen, if they are to be, in the middle one of the radii."""
        _, source = super().prepare(key, victim, source, norm, radii)
        if self.layers:
            source = victim.on_layers(self.layers)
        if not self.tune:
            return self, source
        eps = radii[len(radii) // 2]
        size = {"norm": norm, "eps": eps, "steps": self.steps, "step_size": self.step_size * eps}
        loss = ("refresh", "k", "others", "metric", "targeted", "drawn")
        settings = {name: getattr(self, name) for name in loss} | size
        x, y = victim.first_images(self.tune)
        temperature, weights = tune(key, victim.model, x, y, source=source, **settings)
        chosen = {"temperature": by_layer(temperature), "weights": by_layer(weights)}
        return dataclasses.replace(self, tune=0, **chosen), source

    def source(self, model, source):
        """As that of every attack; ValueError also where its layers or rows are too few."""
        if source is None and self.layers:
            raise ValueError(f"layers={self.layers} without a source: give a classifier on these")
        source = super().source(model, source)
        self._check_counts(len(source.banks), len(source.labels))
        return source

    def _check_counts(self, layers: int, rows: int) -> None:
        """Raises ValueError for numbers that are not one of each layer, and for more rows than there
        are."""
        for name, allowed in (("temperature", (1, layers)), ("weights", (0, layers))):
            given = getattr(self, name)
            if len(given) not in allowed:
                raise ValueError(f"{name}={given}: {layers} layers need one each")
        for name, count in (("k", self.k), ("others", self.others)):
            if count is not None and count > rows:
                raise ValueError(f"{name}={count} asked of a bank of {rows} rows: use at most {rows}")

    def of_layers(self, count: int) -> tuple[tuple[Number, ...], tuple[Number, ...]]:
        """The temperature and the weight of each of so many layers."""
        temperature = self.temperature * count if len(self.temperature) == 1 else self.temperature
        return temperature, self.weights or (1 / count,) * count

    def search(self, key, model, source, x, y, norm, eps):
        """The ascent up the weighted sum of the layers' losses."""
        own, others = (source.k if count is None else count for count in (self.k, self.others))
        numbers = *self.of_layers(len(source.banks)), self.metric

        def retrieve(keys, z, y):
            return ask_loss.retrieve(keys, source, z, y, own, others, self.targeted, self.drawn)

        def loss(z, y, retrieved):
            return ask_loss.loss(source, z, y, retrieved, *numbers)

        often = {"refresh": self.refresh, "searches": 1 + self.targeted}
        return self.ascend(key, model, x, y, retrieve, loss, norm, eps, **often)

    def more(self, model, source, x, y, image):
        """Temperature and weights, what images tell of their class, and how sure the neighbours are."""
        temperature, weights = self.of_layers(len(source.banks))
        found = {}
        for name, numbers in (("temperature", temperature), ("weights", weights)):
            array = jnp.asarray(numbers, jnp.float32)
            found[name] = jnp.broadcast_to(array[None], (len(y), len(array)))
        numbers = (temperature, weights, self.metric)
        for what, z in (("clean", x), ("adversarial", image)):
            found[f"information_{what}"] = ask_loss.information(source, x, y, z, *numbers)
        if isinstance(model, Votes) and dataclasses.is_dataclass(model):
            rows = min(CONFIDENT, len(model.labels))
            votes = dataclasses.replace(model, k=rows).votes(x)
            found["confidence"] = votes.max(1) / votes.sum(1)
        return found


def ask(
    key: Array,
    model: Scores,
    x: GivenImages,
    y: GivenLabels,
    *,
    eps: Real,
    norm: balls.Norm = "linf",
    steps: int = 20,
    step_size: Real | None = None,
    restarts: int = 1,
    refresh: int = 0,
    k: int | None = None,
    others: int | None = None,
    metric: neighbors.Metric | neighbors.Name = "cosine",
    temperature: ByLayer = 0.03,
    weights: Sequence[float] | Float[Array, " layer"] | None = None,
    targeted: bool = False,
    drawn: bool = False,
    source: Votes | None = None,
) -> Found:
    """`ASK` inside the eps-ball around x, with its loss of the `source` if one is given.

    `step_size` is in units of the images, eps / 4 unless given; `temperature` is one number for all
    layers or one for each.

    Raises ValueError for images outside [0, 1], labels out of range and numbers that are too small.
    """
    share = ASK.step_size if step_size is None else relative(step_size, eps)
    similar = (k, others, neighbors.named(metric), by_layer(temperature), by_layer(weights))
    made = ASK(steps, share, restarts, refresh, *similar, targeted, drawn)
    return made(key, model, x, y, norm=norm, eps=eps, source=source)


def tune(
    key: Array,
    model: Scores,
    x: GivenImages,
    y: GivenLabels,
    *,
    temperatures: Sequence[float] = TEMPERATURES,
    shares: int = SHARES,
    **settings: Unpack[Settings],
) -> tuple[Float[Array, " layer"], Float[Array, " layer"]]:
    """Temperatures and weights for `ask`, chosen as Wang et al. did: those that fool most of one batch.

    First the temperature, the same for all layers, at equal weights, then the weights at that
    temperature, from a grid on the simplex with `shares` values of each. Among equals the first.
    `settings` are those of `ask`. One program serves all of them; they are compared on the host, so
    not in a caller's jit.

    Raises ValueError as `ask` does, for fewer than 2 shares and for no temperatures.
    """
    shares = given.whole("shares", shares)
    values.at_least(2, shares=shares)
    if not temperatures:
        raise ValueError("temperatures=(): give at least one to choose from")

    def fooled(temperature, weights):
        found = ask(key, model, x, y, temperature=temperature, weights=weights, **settings)
        return int(found.success.sum())

    source: PyTree = settings.get("source") or model
    require(source, Votes, "tune")
    layers = len(source.banks)
    equal = jnp.full(layers, 1 / layers)
    every = [jnp.full(layers, value) for value in temperatures]
    temperature = max(every, key=lambda t: fooled(t, equal))
    if layers == 1:
        return temperature, equal
    grid = [jnp.asarray(weights, jnp.float32) for weights in _simplex(layers, shares - 1)]
    return temperature, max([equal, *grid], key=lambda weights: fooled(temperature, weights))


def _simplex(layers: int, parts: int) -> np.ndarray:
    """All shares of so many layers in multiples of 1 / parts, which sum to one."""
    grid = np.indices((parts + 1,) * layers).reshape(layers, -1).T
    return grid[grid.sum(1) == parts] / parts
