"""Which scores are among the largest: by a threshold and by counting, without a sort.

XLA's `top_k` sorts all that it is given on a GPU for k > 16, and is a heap on one core of a CPU. What
the search needs is less: a set that surely holds the k best, in any order, and what bounds the rest.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from knn_jax.neighbors import float_order

GROUPS = 4  # times as many as are asked for: then some 15% more scores than asked reach the threshold
PERIODS = 2 * 3 * 5 * 7  # of rows that are alike, as of classes in turn: no group may have its rhythm
BITS = 32  # in a word, and in a score


class Selection(NamedTuple):
    """Selected scores and their indices, in any order, padded by -inf and -1. No score that is left out
    is above `left`."""

    score: Float[Array, "batch slot"]
    place: Int[Array, "batch slot"]
    left: Float[Array, " batch"]


def slots(kept: int, count: int) -> int:
    """How many places `select` returns for the `kept` best of `count` scores."""
    return min(count, kept + kept // 4 + 16)


def select(
    scores: Callable[[], Float[Array, "batch count"]],
    kept: int,
    enough: Float[Array, " batch"] | None = None,
) -> Selection:
    """At least the `kept` largest scores of each row, leaving out -inf.

    The `kept`-th largest of the maxima of groups is a lower bound on the `kept`-th largest score. Few
    more than `kept` scores reach it, unless the large ones crowd in a few groups. In that case
    `lax.top_k` selects from `scores()` computed again, because scores kept until then would have to be
    written to memory in every case. Scores below `enough` may be left out too, for enough are known
    elsewhere that reach it: it is the threshold, unless it is -inf for any row.
    """
    score = scores()
    batch, count = score.shape
    size = slots(kept, count)

    def sorted_out():
        values, place = lax.top_k(scores(), size)
        # The least value as a minimum: to take the last of top_k, XLA sorts all.
        return values, jnp.where(values > -jnp.inf, place, -1), values.min(-1)

    if count <= size:
        place = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), score.shape)
        nothing = jnp.full(batch, -jnp.inf, score.dtype)
        return Selection(score, jnp.where(score > -jnp.inf, place, -1), nothing)

    if score.dtype != jnp.float32:  # which `float_order` has no integers for
        return Selection(*sorted_out())

    if enough is None:
        threshold = _threshold(_maxima(score, kept), kept)
    else:
        threshold = lax.cond(
            (enough > -jnp.inf).all(),
            lambda: enough[:, None],
            lambda: _threshold(_maxima(scores(), kept), kept),
        )
    left = threshold[:, 0]  # -inf where fewer are eligible: none is left
    threshold = jnp.maximum(threshold, jnp.finfo(score.dtype).min)  # -inf is never selected
    place, fits = _places(score >= threshold, size)
    value = jnp.where(place < 0, -jnp.inf, jnp.take_along_axis(score, jnp.maximum(place, 0), -1))
    return Selection(*lax.cond(fits.all(), lambda: (value, place, left), sorted_out))


def top_k(values: Float[Array, "*batch n"], k: int) -> tuple[Array, Array]:
    """`lax.top_k` of any rank as one of rank 2: XLA's CPU backend sorts all values of a higher one."""
    found = lax.top_k(values.reshape(-1, values.shape[-1]), k)
    best, place = (out.reshape(*values.shape[:-1], k) for out in found)
    return best, place


def _maxima(score, kept):
    """The maxima of a few times `kept` groups of scores, of which each takes its turn.

    Large scores are together where rows are sorted by class, and at equal distances where classes take
    turns: neither puts many of them into one group.
    """
    batch, count = score.shape
    groups = min(count, GROUPS * kept)
    while math.gcd(groups, PERIODS) > 1 and groups > 2 * kept:
        groups -= 1
    whole = count - count % groups  # not padded, for which XLA would write all scores to memory
    maxima = score[:, :whole].reshape(batch, -1, groups).max(1)
    rest = jnp.pad(score[:, whole:], [(0, 0), (0, whole + groups - count)], constant_values=-jnp.inf)
    return jnp.maximum(maxima, rest)


def _threshold(score, k):
    """The k-th largest of each row, (batch, 1), -inf where there are fewer: bit by bit from the top."""
    sign = jnp.uint32(2**31)
    order = lax.bitcast_convert_type(float_order.integers(score), jnp.uint32) ^ sign

    def next_bit(number, found):
        with_it = found | lax.shift_right_logical(sign, number.astype(jnp.uint32))
        # Whole numbers below 2^24, of which XLA's CPU backend adds floating-point ones sooner.
        reached = jnp.sum(order >= with_it, -1, keepdims=True, dtype=jnp.float32)
        return jnp.where(reached >= k, with_it, found)

    found = lax.fori_loop(0, BITS, next_bit, order[:, :1] & 0)
    found = float_order.numbers(lax.bitcast_convert_type(found ^ sign, jnp.int32))
    return jnp.where(found > -jnp.inf, found, -jnp.inf)


def _places(
    wanted: Bool[Array, "batch count"], size: int
) -> tuple[Int[Array, "batch size"], Bool[Array, " batch"]]:
    """Where `wanted` is true, in ascending order, -1 behind the last; and whether `size` was enough.

    Its words of 32 bits are counted, not its bits: a 32nd of the sums, and `wanted` is read once.
    """
    words = _packed(wanted)
    counts = lax.population_count(words).astype(jnp.int32)
    ranks = jnp.cumsum(counts, -1)
    # The nth wanted is in the word behind as many as have a running count of n at most.
    nth = jnp.arange(size, dtype=jnp.int32)
    ending = jax.vmap(lambda ranks: jnp.zeros(size, jnp.int32).at[ranks].add(1, mode="drop"))(ranks)
    word = jnp.cumsum(ending, -1)
    last = jnp.minimum(word, words.shape[1] - 1)
    nth = nth[None] - jnp.take_along_axis(ranks - counts, last, -1)
    place = last * BITS + _bit(jnp.take_along_axis(words, last, -1), nth)
    return jnp.where(word == words.shape[1], -1, place), ranks[:, -1] <= size


def _packed(wanted: Bool[Array, "batch count"]) -> UInt32[Array, "batch word"]:
    """Bits of words, the first the lowest."""
    batch, count = wanted.shape
    bits = jnp.left_shift(jnp.uint32(1), jnp.arange(BITS, dtype=jnp.uint32)).reshape(4, 8)

    def words(wanted):
        bytes_ = lax.reduce_or(jnp.where(wanted.reshape(batch, -1, 4, 8), bits, jnp.uint32(0)), (3,))
        return lax.reduce_or(bytes_, (2,))  # in two steps, which a CPU does four at a time

    whole = count - count % BITS
    if whole == count:
        return words(wanted)
    tail = jnp.pad(wanted[:, whole:], [(0, 0), (0, BITS - count + whole)])
    return jnp.concatenate([words(wanted[:, :whole]), words(tail)], -1)


def _bit(word: UInt32[Array, "*shape"], nth: Int[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Which bit of a word is the `nth` that is set, from 0, by halves."""
    place = jnp.zeros_like(nth)
    for width in (16, 8, 4, 2, 1):
        below = lax.population_count(word & jnp.uint32(2**width - 1)).astype(jnp.int32)
        above = nth >= below
        word = jnp.where(above, lax.shift_right_logical(word, jnp.uint32(width)), word)
        nth, place = jnp.where(above, nth - below, nth), jnp.where(above, place + width, place)
    return place
