"""The search of the constant, and what Guided, Hinged and CarliniWagner do by it that others do not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import victims
from jax.tree_util import Partial
from victims import counted, flat

from knn_jax import attacks, classifiers
from knn_jax.attacks import constant_search

SHAPE = (2, 2, 1)
KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("quick")


def linear(parameters, x):
    weights, bias = parameters
    return flat(x) @ weights + bias


def pixels(rows, labels, k=1, taps=1):
    """A classifier on pixels whose bank is `rows` (row, 4), in several equal taps."""
    rows = jnp.asarray(rows, jnp.float32).reshape(-1, *SHAPE)
    return classifiers.knn([flat] * taps, rows, jnp.asarray(labels), k=k)


def test_the_later_attack_is_the_stronger():
    model, x, y = victims.digits()
    right = np.flatnonzero(model.right(x, y))[:5]
    guided = attacks.Guided(guides=10, learning_rate=0.5, constant=1e-2, steps=40, rounds=6)
    hinged = attacks.Hinged(guides=12, constant=0.3, steps=45, rounds=6, refresh=20)
    least = attacks.MinimumNorm(steps=20, starts=1)
    norms = [a(KEY, model, x[right], y[right]).norm.mean() for a in (least, hinged, guided)]
    assert norms[0] <= norms[1] <= norms[2] < np.inf


@pytest.mark.parametrize(
    ("name", "settings", "gradients"),
    [
        ("guided", {"guides": 2, "steps": 3, "rounds": 2}, 6),
        ("hinged", {"guides": 2, "steps": 3, "rounds": 2, "refresh": 2}, 6),
        ("hinged", {"guides": 2, "steps": 2, "rounds": 2, "starts": 3}, 12),
        ("carlini_wagner", {"steps": 3, "rounds": 2}, 6),
    ],
    ids=["guided", "hinged", "hinged from three starts", "carlini_wagner"],
)
def test_it_counts_what_it_computes_and_is_traced_once(name, settings, gradients):
    """Counted by features that report each trace and, at run time, each pass through them."""
    features, passes = counted()
    images = jax.random.uniform(jax.random.key(1), (8, *SHAPE))
    if name == "carlini_wagner":
        model = classifiers.network(features, images)
    else:
        model = classifiers.knn(features, images, jnp.arange(8) % 2, k=1)
    jax.effects_barrier()
    passes.update(forward=0)
    run = partial(getattr(attacks, name), **settings)
    found = run(KEY, model, images[:2] * 0.9, jnp.array([0, 1]))
    jax.effects_barrier()
    assert found.gradients == passes["gradient"] == gradients
    assert found.forwards == passes["forward"]

    traces = passes["trace"]
    settings = {"constant": 0.5, "learning_rate": 0.2}
    run(jax.random.key(1), model, images[2:4] * 0.9, jnp.array([1, 0]), **settings)
    assert passes["trace"] == traces


OWN = [0.4, 0.5, 0.5, 0.45]
OTHER = [0.6, 0.55, 0.4, 0.7]


def test_guided_minimises_its_equation():
    """(x + c m g) / (1 + c m), g the mean of the m guides; the class has two of the three asked for.

    Two equal taps are worth one.
    """
    rows = [[0.6, 0.55, 0.4, 0.7], [0.7, 0.6, 0.45, 0.6]]
    model = pixels([OWN, *rows, [0.95, 0.05, 0.95, 0.05]], [0, 2, 2, 1], taps=2)
    x = jnp.array(OWN).reshape(1, *SHAPE)
    run = partial(attacks.guided, guides=3, learning_rate=0.02, steps=200, rounds=1)
    found = run(KEY, model, x, jnp.array([0]), constant=3.0)
    expected = (np.array(OWN) + 3 * np.sum(rows, 0)) / (1 + 3 * 2)
    np.testing.assert_allclose(flat(found.image)[0], expected, atol=1e-4)


@pytest.mark.parametrize(("refresh", "share"), [(4, 0.5), (300, 0.75)], ids=["anew", "once"])
def test_hinged_stops_where_the_guide_is_among_the_nearest_as_measured_last(refresh, share):
    """At the bisector; or, measured at x, which is its own row, when c / (1 + c) of the way is gone."""
    model, x = pixels([OWN, OTHER], [0, 1]), jnp.array(OWN).reshape(1, *SHAPE)
    run = partial(attacks.hinged, guides=2, learning_rate=0.01, noise=0.0, steps=300, rounds=1)
    found = run(KEY, model, x, jnp.array([0]), constant=3.0, refresh=refresh)
    expected = share * np.linalg.norm(np.subtract(OTHER, OWN))
    assert found.success[0]
    assert 0.95 * expected <= found.norm[0] <= 1.2 * expected


def test_hinged_drops_its_farther_guides_when_it_has_fooled():
    """1-NN: a second guide drags the image away, until the last round, which is that of one guide."""
    model = pixels([OWN, OTHER, [0.05, 0.95, 0.95, 0.95], [0, 0, 0, 0]], [0, 1, 1, 0])
    x = jnp.array(OWN).reshape(1, *SHAPE)
    run = partial(attacks.hinged, learning_rate=0.02, steps=100, refresh=10)
    of_two, of_four, once = (
        run(KEY, model, x, jnp.array([0]), guides=guides, constant=30.0, rounds=rounds).norm[0]
        for guides, rounds in ((2, 2), (4, 2), (4, 1))
    )
    np.testing.assert_allclose(of_four, of_two, rtol=1e-5)
    assert once > 1.2 * of_four


SEVERAL = {"guides": 4, "steps": 10, "rounds": 2, "refresh": 10}


@pytest.fixture(scope="module")
def scattered(quick):
    """A 1-NN of twelve images of three classes, and four images close to four of them."""
    images = jax.random.uniform(jax.random.key(3), (12, *SHAPE))
    y = jnp.arange(12) % 3
    return classifiers.knn(flat, images, y, k=1), images[:4] * 0.95, y[:4]


def test_carlini_wagner_takes_a_network_or_its_logits(scattered):
    _, x, _ = scattered
    logits = Partial(linear, (jnp.asarray(W), jnp.zeros((1, 3))))
    y = (flat(x) @ W).argmax(1)
    one, other = (
        attacks.carlini_wagner(KEY, network, x, y, steps=3, rounds=2)
        for network in (logits, classifiers.network(logits, x))
    )
    np.testing.assert_array_equal(one.image, other.image)


def test_carlini_wagner_takes_the_class_from_among_those_named(scattered):
    _, x, _ = scattered
    logits = Partial(linear, (jnp.asarray(W), jnp.zeros((1, 3))))
    model, y = classifiers.network(logits, x, top=2), (flat(x) @ W).argmax(1)
    own = {"learning_rate": 0.5, "constant": 1.0, "steps": 40, "rounds": 6}
    found = attacks.carlini_wagner(KEY, model, x, y, **own)
    assert found.success.any()
    last = (jax.nn.one_hot(y, 3) * (flat(found.image) @ W)).sum(1) - (flat(found.image) @ W).min(1)
    assert (last[found.success] <= 1e-5).all()


def test_of_several_starts_the_best_is_returned(scattered):
    one, several = (attacks.hinged(KEY, *scattered, starts=n, **SEVERAL) for n in (1, 3))
    assert (several.norm <= one.norm).all()
    assert (several.norm < one.norm).any()


def test_the_key_decides_unless_there_is_no_noise(scattered):
    for noise in (0.0, 0.1):
        keys = jax.random.key(0), jax.random.key(1)
        one, other = (attacks.hinged(key, *scattered, noise=noise, **SEVERAL).image for key in keys)
        assert (one == other).all() == (noise == 0)


W = np.array([[1.0, -2.0, 0.5, -0.25], [0.3, 0.2, -0.1, 0.4], [-1.0, 1.0, 1.0, 0.0]], np.float32).T


def test_carlini_wagner_comes_close_to_a_linear_networks_boundary():
    """min over c of (z_y - z_c) / |w_y - w_c|; twenty times the scale is the same boundary."""
    x = jnp.array([[0.5, 0.4, 0.5, 0.45], [0.42, 0.3, 0.46, 0.45], [0.6, 0.35, 0.5, 0.4]])
    logits = x @ W
    y = logits.argmax(1)
    truth = np.inf
    for c in range(3):
        lead = (logits[np.arange(3), y] - logits[:, c]) / np.linalg.norm(W.T[y] - W.T[c], axis=1)
        truth = np.minimum(truth, np.where(y == c, np.inf, lead))
    run = partial(attacks.carlini_wagner, learning_rate=0.02, steps=80)
    for scale in (1.0, 20.0):
        network = Partial(linear, (jnp.asarray(scale * W), jnp.zeros((1, 3))))
        found = run(KEY, network, x.reshape(-1, *SHAPE), y.astype(jnp.int32))
        assert found.success.all()
        assert (found.norm >= truth - 1e-5).all()
        assert (found.norm <= 1.25 * truth).all()


def test_confidence_is_the_lead_asked_for():
    """Of two classes: the other's logit leads by at least that, and hardly more."""
    network = Partial(linear, (jnp.asarray(W[:, :2]), jnp.zeros((1, 2))))
    x, y = jnp.array([[0.5, 0.4, 0.5, 0.45]]).reshape(1, *SHAPE), jnp.array([1])
    run = partial(attacks.carlini_wagner, learning_rate=0.02, steps=60)
    for confidence in (0.0, 0.3):
        found = run(KEY, network, x, y, confidence=confidence)
        z = network(found.image)[0]
        assert confidence - 1e-6 <= z[0] - z[1] <= confidence + 0.05


def test_a_network_is_attacked_by_pgd_as_its_own_classifier():
    """Within eps of a plane at distance 0.1, or not."""
    x = jnp.array([[0.5, 0.4, 0.5, 0.45]]).reshape(1, *SHAPE)
    w = np.array([0.5, -0.5, 0.5, 0.5])
    weights = jnp.asarray(np.stack([-w, w], 1), jnp.float32)
    bias = jnp.array([[2 * (flat(x)[0] @ w + 0.1), 0.0]], jnp.float32)
    model = classifiers.network(Partial(linear, (weights, bias)), x)
    for eps in (0.09, 0.11):
        found = attacks.pgd(KEY, model, x, jnp.array([0]), norm="l2", eps=eps, steps=10)
        assert found.success[0] == (eps > 0.1)


@pytest.mark.parametrize(
    ("least", "decades", "expected"),
    [
        (0.05, False, [0.01, 0.1, 0.055, 0.0325, 0.04375, 0.049375]),
        (0.003, False, [0.01, 0.005, 0.0025, 0.00375, 0.003125, 0.0028125]),
        (0.0007, True, [0.01, 0.001, 0.0001, 0.00055, 0.000775, 0.0006625]),
        (9e9, True, [0.01, 0.1, 1, 10, 100, 1000]),
    ],
    ids=["up", "down by halves", "down by decades", "never"],
)
def test_the_search_of_the_constant_by_hand(least, decades, expected):
    """A run fools from the constant `least` on, at that distance; the other example always."""
    x = jnp.zeros((2, *SHAPE))
    limit = jnp.array([least, 0.0])

    def run(number, bracket):
        tried.append((number, *bracket))
        fooled = bracket.constant >= limit
        image = jnp.broadcast_to(bracket.constant[:, None, None, None], x.shape)
        return constant_search.Best(image, jnp.where(fooled, bracket.constant, jnp.inf), fooled)

    tried = []
    with jax.disable_jit():
        best = constant_search.search(x, run, constant=jnp.float32(0.01), rounds=6, decades=decades)
    np.testing.assert_allclose([constant[0] for _, constant, *_ in tried], expected, rtol=1e-5)
    fools = [constant for constant in expected if constant >= least]
    np.testing.assert_allclose(best.norm[0], min(fools, default=np.inf), rtol=1e-5)
    assert best.image[0, 0, 0, 0] == (best.norm[0] if fools else 0)
    assert best.norm[1] == tried[-1][1][1]
    last = max((n + 1 for n, constant in enumerate(expected[:-1]) if constant >= least), default=0)
    np.testing.assert_array_equal(tried[-1][-1], [last, 5])


def test_the_box_holds_its_edges():
    image = jnp.array([0.0, 1e-4, 0.3, 0.5, 1.0]).reshape(1, 5, 1, 1)
    z = constant_search.from_box(image)
    assert jnp.isfinite(z).all()
    np.testing.assert_allclose(constant_search.to_box(z), image, atol=1e-6)
    far = constant_search.to_box(jnp.array([-1e3, 1e3]).reshape(1, 2, 1, 1))
    np.testing.assert_array_equal(far.ravel(), [0, 1])


SMALL = pixels([[0.2] * 4, [0.8] * 4], [0, 1])
GREY = jnp.full((2, *SHAPE), 0.5)


@pytest.mark.parametrize("attack", [attacks.guided, attacks.hinged])
def test_a_bank_of_fewer_rows_than_guides_gives_all_it_has(attack):
    x, y = jnp.full((1, *SHAPE), 0.3), jnp.array([0])
    few, many = (attack(KEY, SMALL, x, y, guides=count, steps=40, rounds=4) for count in (4, 100))
    np.testing.assert_array_equal(few.image, many.image)
    assert many.success.all()


def test_guides_are_halved_and_logits_have_a_row_for_each_image():
    for guides in (1, 3):
        with pytest.raises(ValueError, match=f"guides={guides}"):
            attacks.Hinged(guides=guides)
    with pytest.raises(ValueError, match=r"\(1, 2, 2, 1\)"):
        attacks.carlini_wagner(KEY, lambda x: x, GREY, jnp.array([0, 1]))
