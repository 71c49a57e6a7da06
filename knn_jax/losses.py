"""Losses, one value per example."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

Metric = Literal["cosine", "l2"]
Distance = Literal["l2", "linf", "cosine"]
TINY = 1e-24  # squared lengths below are taken for zero
ROUNDED = 1e-6  # of squared norms: what a squared distance computed from them may be wrong


def cross_entropy(
    logits: Float[Array, "batch class"], y: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """-log softmax(logits)_y.

    It is computed of the other classes' leads over y, so that its slope keeps its precision where y is
    almost certain: softmax_y - 1 would round to 0 there.
    """
    others = ~jax.nn.one_hot(y, logits.shape[1], dtype=bool)
    lead = logits - jnp.take_along_axis(logits, y[:, None], 1)
    return jax.nn.softplus(_log_sum(jnp.where(jnp.isneginf(logits), logits, lead), others))


def sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 / (1 + e^-x), with a slope also where it rounds to 1: JAX has sigmoid (1 - sigmoid)."""
    return jnp.exp(jax.nn.log_sigmoid(x))


def margin(
    scores: Num[Array, "batch class"], y: Int[Array, " batch"], top: int = 1
) -> Num[Array, " batch"]:
    """s_y - max of s_c over c != y: negative where another class leads (Carlini & Wagner 2017, f6).

    Above 1 `top` takes the so many-th largest of these: negative where as many classes lead.
    """
    own = jax.nn.one_hot(y, scores.shape[1], dtype=bool)
    lowest = jnp.finfo if jnp.issubdtype(scores.dtype, jnp.floating) else jnp.iinfo
    least = scores.dtype.type(lowest(scores.dtype).min / 2)  # half: the lead over it is a number
    rest = jnp.where(own, least, scores)
    rest = rest.max(1) if top == 1 else jax.lax.top_k(rest, top)[0][:, -1]
    return jnp.take_along_axis(scores, y[:, None], 1)[:, 0] - rest


def similarity(
    features: Float[Array, "batch dim"],
    references: Float[Array, "*batch class count dim"],
    metric: Metric,
) -> Float[Array, "batch class count"]:
    """cos(f, r), or -|f - r|: how near an example is to references of every class.

    The references are each example's own, (batch, class, count, dim), or the same for all.
    """
    if metric == "cosine":
        shared = "bd,cnd->bcn" if references.ndim == 3 else "bd,bcnd->bcn"
        return jnp.einsum(shared, unit(features), unit(references))
    if metric != "l2":
        raise ValueError(f"metric={metric!r}: use 'cosine' or 'l2'")
    references = references.reshape(-1, *references.shape[-3:])
    squared = jnp.sum(jnp.square(features[:, None, None] - references), -1)
    return -jnp.sqrt(jnp.maximum(squared, TINY))


def adversarial_soft_neighbors(
    similarity: Float[Array, "batch class count"],
    y: Int[Array, " batch"],
    there: Bool[Array, "#batch class count"],
    form: Literal["mean", "sum"],
) -> Float[Array, " batch"]:
    """The ASK loss, -log of the share of class y in the mass of all (Wang et al. 2022, eq. 2).

    A class has the mass exp(mean of similarity) in the `mean` form, which that paper attacks with, and
    sum of exp(similarity) in the `sum` form, which it trains with; similarities come divided by the
    temperature. References that are not `there` do not count; a class without any has no mass.
    """
    if form == "mean":
        count = there.sum(-1)
        total = jnp.sum(jnp.where(there, similarity, 0.0), -1)
        scores = jnp.where(count > 0, total / jnp.maximum(count, 1).astype(total.dtype), -jnp.inf)
    else:
        scores = _log_sum(similarity, there)
    return cross_entropy(scores, y)


def information(loss: Float[Array, " batch"], classes: int) -> Float[Array, " batch"]:
    """log(classes - 1) - loss: its mean bounds from below, in nats, what an example tells of its
    references of class y (Wang et al. 2022, proposition 1; approximately, as its proof does)."""
    return math.log(classes - 1) - loss


def soft_nearest_neighbors(
    features: Float[Array, "batch dim"],
    y: Int[Array, " batch"],
    there: Bool[Array, " batch"],
    temperature: float,
) -> Float[Array, " batch"]:
    """-log of the share of its own class among an example's neighbours in the batch.

    A neighbour's weight is exp(-|f_i - f_j|^2 / temperature) (Frosst et al. 2019, eq. 1). 0 for an
    example that is alone of its class, or not `there`.
    """
    squared = _squared(features)
    others = there[None] & ~jnp.eye(len(y), dtype=bool)
    same = y[:, None] == y[None]
    counted = there & (others & same).any(1)
    own, rival = (_log_sum(-squared / temperature, others & among) for among in (same, ~same))
    return jnp.where(counted, jax.nn.softplus(jnp.where(counted, rival - own, 0.0)), 0.0)


def nearest(
    features: Float[Array, "batch dim"], y: Int[Array, " batch"], there: Bool[Array, " batch"]
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Squared distances to the nearest example of the same class in the batch, and of another one.

    0 to the same class and inf to another where there is none.
    """
    squared = _squared(features)
    same = y[:, None] == y[None]
    other = there[None] & ~jnp.eye(len(y), dtype=bool)
    own = jnp.min(jnp.where(other & same, squared, jnp.inf), 1)
    rival = jnp.min(jnp.where(other & ~same, squared, jnp.inf), 1)
    return jnp.where(jnp.isinf(own), 0.0, own), rival


def potential(
    distance: Float[Array, "*pair"],
    same: Bool[Array, "*pair"],
    classes: int,
    *,
    decay: float | Float[Array, ""],
    near: float | Float[Array, ""],
) -> Float[Array, "*pair"]:
    """I (e^(-lambda d) - e^(-lambda l_0)) of pairs at distance d (paper 3, section 2.1).

    I is 1 / classes between classes, which repel each other, and within one -1 from l_0 = `near` on and
    0 below; lambda is `decay`.
    """
    # Above and below l_0 by a form of its own: neither has a large exponent, or cancels.
    below, above = (
        jnp.where(distance < near, distance, near),
        jnp.where(distance < near, near, distance),
    )
    repelled = -jnp.exp(-decay * below) * _expm1(-decay * (near - below))
    over = jnp.where(
        distance < near, repelled, jnp.exp(-decay * near) * _expm1(-decay * (above - near))
    )
    return jnp.where(same, jnp.maximum(-over, 0.0), over / classes)


def distance(
    one: Float[Array, "*#pair dim"], other: Float[Array, "*#pair dim"], kind: Distance
) -> Float[Array, "*#pair"]:
    """|f - p| in L2 or Linf, or 1 - cos(f, p); of gradient 0 where they are equal."""
    if kind == "cosine":
        return 1 - jnp.sum(unit(one) * unit(other), -1)
    if kind == "linf":
        apart = one - other
        return jnp.max(apart * jnp.sign(apart), -1)
    return jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(one - other), -1), TINY))


def to_prototype(
    points: Float[Array, "batch dim"], prototype: Float[Array, "batch dim"], kind: Distance
) -> Float[Array, " batch"]:
    """(1 - d(f, p_y))^2, each with the prototype of its class (Serban et al. 2021, paper 5, eq. 6).

    In L2 and Linf this has points at distance 1 from their prototype, as the paper writes it. By cosine
    d is the similarity itself, as in the work that it follows (Mettes et al. 2019): (1 - cos)^2.
    """
    apart = distance(points, prototype, kind)
    return jnp.square(apart if kind == "cosine" else 1 - apart)


def prototype_radius(
    points: Float[Array, "batch dim"],
    prototypes: Float[Array, "class count dim"],
    y: Int[Array, " batch"],
    *,
    own: int,
    other: int,
) -> Float[Array, " batch"]:
    """How far a point is at least from where a prototype of another class is the nearest.

    min over j of max over i of (|f - p_j|^2 - |f - p_i|^2) / (2 |p_i - p_j|), i among the `own` nearest
    prototypes of class y and j among the `other` nearest of the others (Voracek & Hein 2022): the
    Voronoi certificate, below zero for a point on the wrong side. Of all prototypes it is sound.
    """
    classes, count, dim = prototypes.shape
    rows = prototypes.reshape(-1, dim)
    same = jnp.repeat(jnp.arange(classes), count)[None] == y[:, None]
    # The pair is chosen without a gradient, which then goes to these two prototypes alone.
    fixed = jax.lax.stop_gradient((points - rows[:1], rows - rows[:1]))
    squared = jnp.sum(jnp.square(fixed[1]), 1)[None] - 2 * _products(*fixed)

    def nearest(among, number):
        found, index = jax.lax.top_k(jnp.where(among, -squared, -jnp.inf), number)
        return -found, index

    near, i = nearest(same, min(own, count))
    far, j = nearest(~same, min(other, (classes - 1) * count))
    p, q = fixed[1][i], fixed[1][j]
    norms = [jnp.sum(jnp.square(some), -1) for some in (p, q)]
    between = norms[0][:, :, None] + norms[1][:, None] - 2 * jnp.einsum("bid,bjd->bij", p, q)
    sides = (far[:, None] - near[:, :, None]) / jnp.sqrt(jnp.maximum(between, TINY))
    worst = sides.max(1).argmin(1)[:, None]
    best = jnp.take_along_axis(sides, worst[:, None], 2)[:, :, 0].argmax(1)[:, None]
    p, q = (rows[jnp.take_along_axis(*pair, 1)[:, 0]] for pair in ((i, best), (j, worst)))
    side = jnp.sum(jnp.square(points - q), 1) - jnp.sum(jnp.square(points - p), 1)
    return side / (2 * distance(p, q, "l2"))


def subspace_distances(
    features: Float[Array, "batch dim"], others: Float[Array, "row dim"], count: int
) -> Float[Array, "batch row"]:
    """Sums of the distances in `count` equal parts of the dimensions, by matmuls: pairs that rounding
    cannot tell apart have distance 0, of gradient 0."""
    features, others = features - others[:1], others - others[:1]
    total = jnp.zeros((len(features), len(others)))
    pairs = zip(*(jnp.split(array, count, 1) for array in (features, others)), strict=True)
    for one, other in pairs:
        norms = jnp.sum(jnp.square(one), 1)[:, None] + jnp.sum(jnp.square(other), 1)[None]
        squared = norms - 2 * _products(one, other)
        apart = squared > ROUNDED * norms
        total += jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)
    return total


def unit(features: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """Divided by their length; zeros stay zeros."""
    return features * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(features), -1, keepdims=True), TINY))


def _squared(features):
    """Squared distances (batch, batch) of all pairs."""
    features = features - features[:1]  # what all share would cost precision
    norms = jnp.sum(jnp.square(features), 1)
    return jnp.maximum(norms[:, None] + norms[None] - 2 * _products(features, features), 0.0)


def _products(one, other):
    """Inner products of all pairs of rows."""
    return jnp.matmul(one, other.T, precision=jax.lax.Precision.HIGHEST)


def _log_sum(x, among):
    """Log of the sum of e^x over the last axis; -inf, and of slope 0, where nothing is `among`."""
    some = among & ~jnp.isneginf(x)
    none = ~some.any(-1)
    total = jax.nn.logsumexp(jnp.where(some, x, 0.0), -1, where=some | none[..., None])
    return jnp.where(none, -jnp.inf, total)


@jax.custom_jvp
def _expm1(x):
    """e^x - 1 whose slope is e^x: JAX's own, expm1(x) + 1, rounds to 0 below -17."""
    return jnp.expm1(x)


_expm1.defjvps(lambda tangent, _, x: tangent * jnp.exp(x))
