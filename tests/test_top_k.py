"""Selection without sorting, as properties: what is chosen, what is left, and in which order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knn_jax.neighbors.top_k import _places, _threshold, slots, top_k
from knn_jax.neighbors.top_k import select as selected

pytestmark = pytest.mark.usefixtures("quick")

KINDS = [
    "random",
    "positive",
    "negative",
    "equal",
    "zeros",
    "ascending",
    "descending",
    "crowded",
    "crowded ties",
    "tied",
    "some -inf",
    "few finite",
    "one row without any",
    "all -inf",
    "infinite",
    "tiny",
]
# (batch, count, kept), of groups of several scores and of one; the last three need none
GROUPED = [(7, 100, 6), (9, 333, 10), (9, 1000, 13), (7, 5000, 100), (1, 1000, 13), (9, 130, 40)]
SHAPES = [*GROUPED, (7, 66, 40), (7, 20, 40)]


@functools.partial(jax.jit, static_argnames="kept")
def select(score, kept, enough=None):
    return selected(lambda: score, kept, enough)


threshold = jax.jit(_threshold, static_argnames="k")
places = jax.jit(_places, static_argnames="size")


def seen(score):
    """As XLA compares numbers: those too small for all digits are zero."""
    score = np.asarray(score)
    return np.where(np.abs(score) < np.finfo(np.float32).tiny, np.float32(0), score)


def sample(kind, batch, count, kept, seed=0):
    rng = np.random.default_rng(seed)
    score = rng.normal(size=(batch, count))
    first = rng.integers(0, count - min(count, kept) + 1, size=(batch, 1))
    crowd = (np.arange(count) >= first) & (np.arange(count) < first + kept)
    if kind == "positive":
        score = np.exp(8 * score)
    if kind == "negative":
        score = -np.exp(8 * score)
    if kind == "equal":
        score = np.full((batch, count), -0.3)
    if kind == "zeros":  # of both signs, which are equal and of different bits
        score = np.where(score > 0, 0.0, -0.0)
    if kind == "ascending":
        score = np.sort(score)
    if kind == "descending":
        score = -np.sort(score)
    if kind == "crowded":  # all large ones next to each other, as rows sorted by class make them
        score = score + 100 * crowd
    if kind == "crowded ties":
        score = np.where(crowd, 1.0, -1.0)
    if kind == "tied":
        score = rng.integers(-2, 3, size=(batch, count))
    if kind == "some -inf":
        score = np.where(rng.random((batch, count)) < 0.5, -np.inf, score)
    if kind == "few finite":
        score = np.where(rng.random((batch, count)) < 0.4 * kept / count, score, -np.inf)
    if kind == "one row without any":
        score[-1] = -np.inf
    if kind == "all -inf":
        score = np.full((batch, count), -np.inf)
    if kind == "infinite":
        score = np.where(rng.random((batch, count)) < 0.2, np.inf, score)
    if kind == "tiny":  # below what a float32 holds with all its digits
        score = score * 1e-39
    return jnp.asarray(score, jnp.float32)


def check(score, kept, chosen):
    """What holds of every selection, whatever the threshold: see `Selection`."""
    score, value, place, left = (
        seen(score),
        seen(chosen.score),
        np.asarray(chosen.place),
        seen(chosen.left),
    )
    assert place.shape == value.shape == (len(score), slots(kept, score.shape[1]))
    there = place >= 0
    assert (place[~there] == -1).all()
    np.testing.assert_array_equal(value[~there], -np.inf)
    if score.shape[1] > place.shape[1]:  # else the places are those of the scores, and have holes
        assert (there[:, :-1] | ~there[:, 1:]).all(), "none between others"
    for row in range(len(score)):
        found = place[row][there[row]]
        assert len(np.unique(found)) == len(found), "each once"
        np.testing.assert_array_equal(value[row][there[row]], score[row][found])
        assert (score[row][found] > -np.inf).all(), "-inf is never selected"
        others = np.delete(score[row], found)
        assert others.max(initial=-np.inf) <= left[row], "no other score is above what is left"


def best(score, count):
    """The largest of each row in order, -inf where there are fewer."""
    score = np.concatenate([seen(score), np.full((len(score), count), -np.inf, np.float32)], 1)
    return -np.sort(-score)[:, :count]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_largest_are_selected_and_the_rest_is_bounded(shape):
    _, count, kept = shape
    for kind in KINDS:
        score = sample(kind, *shape)
        chosen = select(score, kept)
        check(score, kept, chosen)
        largest = best(score, kept)
        np.testing.assert_array_equal(best(chosen.score, kept), largest, kind)
        # A bound above what was asked for would let nothing be excluded; without others there is none.
        assert (seen(chosen.left) <= largest[:, -1]).all(), kind
        if count <= slots(kept, count):
            np.testing.assert_array_equal(chosen.left, -np.inf)


@pytest.mark.parametrize("classes", ["none", "sorted", "in turn"])
@pytest.mark.parametrize("shape", GROUPED, ids=str)
def test_few_more_than_asked_are_selected_without_sorting(shape, classes):
    """`top_k` would fill all slots, as it does where the large ones crowd in a few groups."""
    _, count, kept = shape
    place = np.arange(count)
    one = {"none": place < 0, "sorted": place // (count // 10) == 3, "in turn": place % 10 == 3}[
        classes
    ]
    score = sample("random", *shape)
    if one.sum() > 2 * kept:
        score = jnp.where(one, score + 100, score)
    number = (np.asarray(select(score, kept).place) >= 0).sum(1)
    assert (number >= kept).all()
    assert (number < slots(kept, count)).all()


@pytest.mark.parametrize("shape", [s for s in GROUPED if s[1] != 100], ids=str)
def test_enough_known_elsewhere_is_the_threshold(shape):
    """The best of two halves are among what one has kept and what is selected of the other."""
    _, _, kept = shape
    for kind in KINDS:
        for gap in (-1.0, 0.0, 3.0):
            known = best(sample(kind, *shape, seed=1), kept) + np.float32(gap)
            score = sample(kind, *shape)
            chosen = select(score, kept, jnp.asarray(known[:, -1]))
            check(score, kept, chosen)
            both = np.concatenate([known, score], 1)
            found = np.concatenate([known, chosen.score], 1)
            np.testing.assert_array_equal(best(found, kept), best(both, kept), f"{kind} {gap}")


def test_the_whole_batch_is_right_where_one_row_is_crowded():
    shape = (9, 333, 10)
    score = sample("random", *shape).at[5].set(sample("crowded", *shape)[5])
    check(score, 10, chosen := select(score, 10))
    np.testing.assert_array_equal(best(chosen.score, 10), best(score, 10))


@pytest.mark.parametrize(("count", "k"), [(50, 1), (333, 20), (1000, 400), (7, 7), (5, 9)])
def test_the_threshold_is_the_kth_largest(count, k):
    for kind in KINDS:
        score = sample(kind, 6, count, k)
        found, score = np.asarray(threshold(score, k)), np.asarray(score)
        assert found.shape == (6, 1)
        np.testing.assert_array_equal(seen(found)[:, 0], best(score, k)[:, -1], kind)


def test_one_place_too_few_is_noticed():
    wanted = jnp.arange(100)[None] < jnp.array([[10], [11]])
    np.testing.assert_array_equal(places(wanted, 10)[1], [True, False])


@pytest.mark.parametrize(("count", "size"), [(1, 1), (40, 5), (333, 60), (1000, 1000), (12, 30)])
def test_places_are_where_it_is_true(count, size):
    rng = np.random.default_rng(0)
    for share in (0.0, 0.02, size / count, 1.0):
        wanted = rng.random((6, count)) < share
        found, fits = map(np.asarray, places(jnp.asarray(wanted), size))
        np.testing.assert_array_equal(fits, wanted.sum(1) <= size)
        for row in range(6):
            where = np.flatnonzero(wanted[row])[:size]
            expected = np.pad(where, (0, size - len(where)), constant_values=-1)
            np.testing.assert_array_equal(found[row], expected)


def test_top_k_of_any_rank_is_that_of_each_row():
    score = sample("tied", 6, 40, 5).reshape(2, 3, 40)
    value, place = top_k(score, 9)
    expected = np.argsort(-np.asarray(score), -1, kind="stable")[..., :9]
    np.testing.assert_array_equal(place, expected)
    np.testing.assert_array_equal(value, np.take_along_axis(np.asarray(score), expected, -1))
