"""Up the potential of the whole bank in signed steps: the attack of IdResNet's authors on it."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from knn_jax import balls, classifiers, losses, values
from knn_jax.attacks import batches, judgement
from knn_jax.attacks.attack import BallAttack, Found, Number
from knn_jax.attacks.pgd import relative
from knn_jax.classifiers import GivenImages, GivenLabels, Images, Labels, Votes
from knn_jax.neighbors import in_tiles
from knn_jax.values.given import Real

TILE = 2048  # rows whose distances are held at once, for each of up to 128 images


@values.value
class KFGSM(BallAttack):
    """k-step fast gradient sign method up the potential of all rows of the bank (Qian, An & Su).

    The potential is that of the exponential contrastive loss, of the classifier's metric, summed over
    layers: away from rows of class y beyond `near`, towards all others by e^(-decay distance). Steps
    start at the image itself, and pixels stay in [0, 1], as they need not in the paper (section 2.5).
    Rows are taken in tiles: never are there distances of all.
    """

    steps: int = 30
    """Gradient steps."""
    step_size: float = 0.1
    """Length of a step as a share of eps."""
    decay: float = 0.5
    """Decay of the potential with distance (lambda in Qian, An & Su, section 2.1)."""
    near: float = 7.0
    """Distance within which rows of the image's own class have no potential (l_0 in Qian, An & Su,
    section 2.1)."""

    needs = Votes
    whole = True
    draws = False
    cites = "Qian, An & Su, K-NN with Identity Initialized ResNet, github.com/totorato/PotentialNet"

    def __post_init__(self):
        values.at_least(1, steps=self.steps)
        values.at_least(0, step_size=self.step_size, near=self.near)
        values.above(0, decay=self.decay)

    def search(self, key, model, source, x, y, norm, eps):
        """The ascent up the potential; the key is not drawn from."""
        ball, size = balls.ball(norm, eps), eps * self.step_size

        def batch(x, y):
            def step(_, carry):
                image, steep = carry
                up = jax.grad(lambda z: potential(model, z, y, self.decay, self.near).sum())(image)
                return balls.step(ball, x, image, up, size), steep | judgement.steep(up)

            return lax.fori_loop(0, self.steps, step, (x, jnp.zeros(len(x), bool)))

        image, steep = in_tiles(batch, batches.BATCH)(x, y)
        return judgement.judge(model, x, y, image, norm, self.steps, 0, no_gradient=~steep)


def kfgsm(
    key: Array,
    model: Votes,
    x: GivenImages,
    y: GivenLabels,
    *,
    eps: Real,
    norm: balls.Norm = "linf",
    steps: int = 30,
    step_size: Real | None = None,
    decay: Number = 0.5,
    near: Number = 7.0,
) -> Found:
    """`KFGSM` inside the eps-ball around x; `step_size` is in units of the images, eps / 10 unless
    given. `key` is not drawn from.

    Raises ValueError for images outside [0, 1], labels out of range and numbers that are too small.
    """
    share = KFGSM.step_size if step_size is None else relative(step_size, eps)
    force: Any = decay, near  # of any type that a float32 can be made of
    return KFGSM(steps, share, *force)(key, model, x, y, norm=norm, eps=eps)


def potential(
    model: Votes, z: Images, y: Labels, decay: Number, near: Number
) -> Float[Array, " batch"]:
    """Of images among all rows of the bank, tile by tile."""
    metric, total = classifiers.feature_metric(model.metric), jnp.zeros(len(z))
    labels = _tiled(model.labels, -1)
    for query, bank in zip(model.features(z), model.banks, strict=True):

        @jax.checkpoint  # a gradient measures the distances of a tile again
        def add(total, tile, query=query):
            rows, of = tile
            distance = losses.pairwise_distances(query, rows, metric)
            same = y[:, None] == of[None]
            pairs = losses.potential(distance, same, model.classes, decay=decay, near=near)
            return total + jnp.sum(pairs, 1, where=of[None] >= 0), None

        total, _ = lax.scan(add, total, (_tiled(bank, 0), labels))
    return total


def _tiled(rows, fill: int):
    """(tile, row, ...), filled up."""
    size = min(TILE, len(rows))
    width = [(0, -len(rows) % size), *[(0, 0)] * (rows.ndim - 1)]
    return jnp.pad(rows, width, constant_values=fill).reshape(-1, size, *rows.shape[1:])
