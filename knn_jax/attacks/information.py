"""What images tell of their class, as the loss of ASK measures it."""

from collections.abc import Sequence

from jaxtyping import Array, Float

from knn_jax import neighbors, values
from knn_jax.attacks import ask_loss, checks
from knn_jax.attacks.ask import ASK
from knn_jax.attacks.ask_settings import ByLayer, by_layer
from knn_jax.attacks.attack import Images, Labels
from knn_jax.classifiers import Votes


def information(
    model: Votes,
    x: Images,
    y: Labels,
    image: Images,
    *,
    metric: neighbors.Metric | neighbors.Name = "cosine",
    temperature: ByLayer = 0.03,
    weights: Sequence[float] | Float[Array, " layer"] | None = None,
) -> Float[Array, " batch"]:
    """log(classes - 1) less the ASK loss at `image`, over the k references of x in every class.

    The mean over examples bounds from below, in nats, what images tell of their references of class y
    (Wang et al. 2021, proposition 1): an attack lowers it.
    """
    x, y = checks.check(model, x, y)
    measure = neighbors.named(metric)
    made = ASK(metric=measure, temperature=by_layer(temperature), weights=by_layer(weights))
    made.source(model, None)
    if image.shape != x.shape:
        raise ValueError(f"image of shape {image.shape} beside x of {x.shape}: they must be equal")
    numbers = values.arrays(made).of_layers(len(model.banks))
    return ask_loss.information(model, x, y, image, *numbers, measure)
