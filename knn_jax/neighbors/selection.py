"""Which scores are among the largest: by a threshold and by counting, without a sort.

XLA's `top_k` sorts all that it is given on a GPU for k > 16, and is a heap on one core of a CPU. What
the search needs is less: a set that surely holds the k best, in any order, and what bounds the rest.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

WIDTHS = (32, 16, 8)  # scores in a group
SPARE = 8  # more than asked that a threshold may let through
FEW = 16  # rows of scores whose many small steps take longer on a CPU than one top_k


class Selection(NamedTuple):
    """Scores and their places, in order of place; -inf and -1 where there are fewer. No other score is
    above `left`."""

    score: Float[Array, "batch slot"]
    place: Int[Array, "batch slot"]
    left: Float[Array, " batch"]


def slots(kept: int, count: int) -> int:
    """How many places `select` returns for the `kept` best of `count` scores."""
    return min(count, kept + kept // 3 + 16)


def select(
    scores: Callable[[], Float[Array, "batch count"]],
    kept: int,
    enough: Float[Array, " batch"] | None = None,
) -> Selection:
    """At least the `kept` largest scores of each row, leaving out -inf.

    The `kept`-th largest of the maxima of groups is a lower bound on the `kept`-th largest score, and
    all scores from it on lie in groups whose maxima reach it. Few more than `kept` scores do unless
    large ones crowd in a few groups; then `lax.top_k` selects instead, of `scores()` computed again:
    held until then, they would be written to memory once more each time. If at least `kept` scores
    known elsewhere reach `enough`, that is the threshold.
    """
    score = scores()
    batch, count = score.shape
    size = slots(kept, count)

    def sorted_out():
        values, place = lax.top_k(scores(), size)
        place, values = lax.sort((jnp.where(values > -jnp.inf, place, count), values), num_keys=1)
        # The least value as a minimum: to take the last of top_k, XLA sorts all.
        return values, jnp.where(place == count, -1, place), values.min(-1)

    if count <= size:
        place = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), score.shape)
        nothing = jnp.full(batch, -jnp.inf, score.dtype)
        return Selection(score, jnp.where(score > -jnp.inf, place, -1), nothing)
    if batch <= FEW and jax.default_backend() == "cpu":
        return Selection(*sorted_out())

    width = next((w for w in WIDTHS if count // w >= 2 * kept), 1)
    groups = count // width
    grouped = score[:, : groups * width].reshape(batch, groups, width)
    largest = grouped.max(-1)
    threshold = _threshold(largest, kept) if enough is None else enough[:, None]
    left = threshold[:, 0]  # -inf where fewer are eligible: none is left
    threshold = jnp.maximum(threshold, jnp.finfo(score.dtype).min)  # -inf is never selected
    candidates, place_of, fits = score, lambda found: found, True
    if width > 1:
        tail = score[:, groups * width :]  # in no group
        candidates, place_of, fits = _opened(grouped, tail, largest >= threshold, kept + 2 * SPARE)
    found, all_found = _places(candidates >= threshold, size)
    value = jnp.take_along_axis(candidates, jnp.maximum(found, 0), -1)
    chosen = jnp.where(found < 0, -jnp.inf, value), jnp.where(found < 0, -1, place_of(found)), left
    return Selection(*lax.cond((fits & all_found).all(), lambda: chosen, sorted_out))


def _opened(grouped, tail, wanted, size):
    """The scores in the first `size` wanted groups and in the tail (batch, candidate), where a
    candidate's score was, and whether `size` was enough."""
    _, groups, width = grouped.shape
    group, fits = _places(wanted, size)
    inside = jnp.where(group[..., None] < 0, -jnp.inf, jax.vmap(lambda s, g: s[g])(grouped, group))
    candidates = jnp.concatenate([inside.reshape(len(tail), -1), tail], -1)

    def place_of(found):
        first = jnp.take_along_axis(group, jnp.clip(found // width, 0, size - 1), -1) * width
        return jnp.where(found < size * width, first + found % width, found + (groups - size) * width)

    return candidates, place_of, fits


def top_k(values: Float[Array, "*batch n"], k: int) -> tuple[Array, Array]:
    """`lax.top_k` of any rank as one of rank 2: XLA's CPU backend sorts all values of a higher one."""
    found = lax.top_k(values.reshape(-1, values.shape[-1]), k)
    best, place = (out.reshape(*values.shape[:-1], k) for out in found)
    return best, place


def _threshold(score, k):
    """A number (batch, 1) that at least k of each row reach and, but for ties, at most SPARE more.

    By bisection on the bits of the numbers; -inf where fewer than k are above it.
    """
    signed = jnp.int32 if score.dtype == jnp.float32 else jnp.int64
    order = lax.bitcast_convert_type(score, signed)
    order = jnp.where(order < 0, order ^ jnp.iinfo(signed).max, order)  # ascending as the numbers do

    def reach(value):
        return jnp.sum(order >= value, -1, keepdims=True, dtype=jnp.int32)

    def open_ended(state):
        low, high, count = state
        return jnp.any((count > k + SPARE) & (_middle(low, high) > low))

    def halve(state):
        low, high, count = state
        middle = _middle(low, high)
        reached = reach(middle)
        enough = reached >= k
        low, high = jnp.where(enough, middle, low), jnp.where(enough, high, middle)
        return low, high, jnp.where(enough, reached, count)

    finite = jnp.where(score > -jnp.inf, order, jnp.iinfo(signed).max)
    low, high = finite.min(-1, keepdims=True), order.max(-1, keepdims=True) + 1
    low, _, count = lax.while_loop(open_ended, halve, (low, high, reach(low)))
    low = jnp.where(low < 0, low ^ jnp.iinfo(signed).max, low)
    return jnp.where(count < k, -jnp.inf, lax.bitcast_convert_type(low, score.dtype))


def _middle(low, high):
    """Between two integers, however far apart."""
    return (low & high) + lax.shift_right_arithmetic(low ^ high, jnp.ones_like(low))


def _places(
    wanted: Bool[Array, "batch count"], size: int
) -> tuple[Int[Array, "batch size"], Bool[Array, " batch"]]:
    """Where `wanted` is true, in ascending order, -1 behind the last; and whether `size` was enough."""
    ranks = jnp.cumsum(wanted, -1, dtype=jnp.int32)
    number = jnp.arange(1, size + 1, dtype=jnp.int32)
    place = jax.vmap(lambda rank: jnp.searchsorted(rank, number, method="scan_unrolled"))(ranks)
    place = place.astype(jnp.int32)
    return jnp.where(place == wanted.shape[1], -1, place), ranks[:, -1] <= size
