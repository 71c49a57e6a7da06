"""The contract of certificates. A new one is tested by adding it to the list."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from points import classifier, exact, images, scaled

from knn_jax import attacks, certificates, classifiers, mesh, values
from knn_jax.certificates import Certificate, Exact, Margin, Smoothing, Voronoi
from knn_jax.certificates.certificate import bounded

pytestmark = pytest.mark.usefixtures("quick")
KEY = jax.random.key(0)
CERTIFICATES = [
    Margin(),
    Voronoi(own=4, other=8),
    Exact(),
    Exact(box=True),
    Smoothing(sigma=0.05, samples=50),
    certificates.VoronoiLinf(own=4, other=8),
]
every = pytest.mark.parametrize("certificate", CERTIFICATES, ids=repr)
of_features = pytest.mark.parametrize(
    "certificate", [one for one in CERTIFICATES if one.of_features], ids=repr
)
free = pytest.mark.parametrize("certificate", [Margin(), Voronoi(own=4, other=8), Exact()], ids=repr)


def arrays(certificate, model, x, y, lipschitz=None):
    """As a run computes them: checked, bounded inside a jit, finished on the host."""
    constant = certificate.check(model, lipschitz)
    found = bounded(values.arrays(certificate), KEY, model, x, y, constant)
    return certificate.finish({name: np.asarray(leaf) for name, leaf in found.items()}, np.asarray(y))


def radii(certificate, model, x, y, lipschitz=None):
    """Where the classifier that is certified is right."""
    found = arrays(certificate, model, x, y, lipschitz)
    return np.where(found.get("right", True), found["radius"], 0.0)


@pytest.fixture(scope="module")
def victim(quick):
    """A 1-NN of 24 points of 3 classes between .1 and .8, and 8 other points with the classes given."""
    rng = np.random.default_rng(3)
    rows = rng.uniform(0.1, 0.8, size=(24, 3)).astype(np.float32)
    x = images(rng.uniform(0.1, 0.8, size=(8, 3)))
    model = classifier(rows, np.arange(24) % 3)
    return model, x, model.predict(x)


@pytest.fixture(scope="module")
def found(victim):
    """The arrays of each certificate on the victim, made once."""
    return {repr(certificate): arrays(certificate, *victim) for certificate in CERTIFICATES}


@pytest.fixture(scope="module")
def attacked(victim):
    both = ("l2", "linf")
    return {norm: attacks.minimum_norm(KEY, *victim, norm=norm, steps=20).norm for norm in both}


@every
def test_there_is_a_radius_for_each_image_and_some_are_above_0(certificate, victim, found):
    radius = found[repr(certificate)]["radius"]
    assert radius.shape == victim[2].shape
    assert (radius >= 0).all()
    assert (radius > 0).sum() > 2


@every
@pytest.mark.parametrize("k", [1, 3])
def test_a_wrong_class_has_no_radius(certificate, victim, k):
    if isinstance(certificate, Exact) and k == 3:
        pytest.skip("test_exact_k asks this")
    model, x, y = victim
    model = dataclasses.replace(model, k=k)
    wrong = (model.predict(x) + 1 + y % 2) % 3
    np.testing.assert_array_equal(radii(certificate, model, x, wrong), np.zeros(8))


@of_features
def test_it_is_below_the_exact_distance_and_that_below_the_attack(certificate, victim, found, attacked):
    model, x, y = victim
    rows, labels = np.asarray(model.banks[0]), np.asarray(model.labels)
    box = getattr(certificate, "box", False)
    points = zip(np.asarray(x).reshape(8, 3), np.asarray(y), strict=True)
    truth = np.array([exact(point, rows, labels, label, box) for point, label in points])
    radius = found[repr(certificate)]["radius"]
    assert (radius <= truth + 1e-7).all()  # no vector has a larger norm in Linf than in L2
    assert (radius <= attacked[certificate.norm] + 1e-6).all()
    assert (truth <= attacked["l2"] + 1e-6).all()


def test_each_proves_at_least_what_a_cheaper_one_proves(found):
    margin, voronoi, free, box = (found[repr(one)]["radius"] for one in CERTIFICATES[:4])
    assert (margin <= voronoi + 1e-6).all()
    assert (voronoi <= free + 1e-6).all()
    assert (free <= box + 1e-6).all()


@every
def test_moving_everything_alike_changes_nothing(certificate, victim, found):
    if certificate == Exact(box=True):
        pytest.skip("the box does not move")
    model, x, y = victim
    moved = classifiers.knn(None, model.images + 0.125, model.labels, k=1)
    radius = arrays(certificate, moved, x + 0.125, y)["radius"]
    np.testing.assert_allclose(radius, found[repr(certificate)]["radius"], atol=1e-4)


@free
def test_a_radius_in_features_is_divided_by_their_lipschitz_constant(certificate, victim, found):
    """1,000 x has the constant 1,000 and says about x what x says; a constant of 4 quarters it."""
    model, x, y = victim
    plain, large = (
        classifiers.knn(Partial(scaled, jnp.float32(s)), model.images, model.labels, k=1)
        for s in (1, 1000)
    )
    radius = found[repr(certificate)]["radius"]
    np.testing.assert_allclose(radii(certificate, plain, x, y, 4.0), radius / 4, rtol=1e-6)
    np.testing.assert_allclose(radii(certificate, large, x, y, 1000.0), radius, atol=1e-4)


def lower(told):
    return told.lower if isinstance(told, certificates.ExactRadius) else told


@of_features
def test_called_alone_or_on_one_image_in_the_callers_jit_it_is_the_same(certificate, victim, found):
    model, x, y = victim
    radius = found[repr(certificate)]["radius"]
    np.testing.assert_array_equal(lower(certificate(model, x, y)), radius)
    alone = jax.jit(certificate.__call__)(model, x[3:4], y[3:4])
    np.testing.assert_allclose(lower(alone), radius[3:4], atol=1e-6)


def test_the_public_functions_are_the_values(victim, found):
    """`exact` is asked with a constant of its own in its own file."""
    model, x, y = victim
    for name, told in {
        "Margin()": certificates.margin(model, x, y),
        "Voronoi(own=4, other=8)": certificates.voronoi(model, x, y, own=4, other=8),
        "Exact(box=False)": certificates.exact(model, x, y).lower,
        "Exact(box=True)": certificates.exact(model, x, y, box=True).lower,
    }.items():
        np.testing.assert_array_equal(told, found[name]["radius"])
    decided = certificates.smoothing(KEY, model, x, sigma=0.05, samples=50)
    told = found["Smoothing(sigma=0.05, samples=50, alpha=0.001)"]
    np.testing.assert_array_equal(decided.predict, told["predict"])
    np.testing.assert_array_equal(decided.radius, told["radius"])


@every
def test_other_numbers_need_no_new_program(certificate, victim):
    _, x, y = victim
    traced = []

    def features(x):
        traced.append(x.shape)
        return x.reshape(len(x), -1)

    model = classifiers.knn(features, victim[0].images, victim[0].labels, k=1)
    model = dataclasses.replace(model, on_inputs=True)
    arrays(certificate, model, x, y, 1.0)
    before = len(traced)
    leaves, static = jax.tree.flatten(certificate)
    other = jax.tree.unflatten(static, [0.5 * leaf for leaf in leaves])
    arrays(other, model, x + 0.01, y, 2.0)
    assert len(traced) == before


@every
def test_a_value_prints_itself_and_turns_into_json(certificate):
    assert eval(repr(certificate), vars(certificates)) == certificate
    told = json.loads(json.dumps(values.told(certificate)))
    knobs = {field.name: getattr(certificate, field.name) for field in dataclasses.fields(certificate)}
    assert told == {"class": type(certificate).__name__, **knobs}
    assert hash(certificate) == hash(dataclasses.replace(certificate))


@every
def test_it_says_what_it_is_of(certificate, victim, found):
    assert certificate.cites
    assert certificate.norm in ("l2", "linf")
    assert isinstance(victim[0], certificate.needs)
    y = victim[2]
    given = found[repr(certificate)]
    told = certificate.summary(given, given.get("right", np.ones(8, bool)))
    files = certificate.files(given, np.asarray(y), np.arange(len(y)), 2.0)
    assert all(isinstance(value, float) for value in told.values())
    assert set(told) <= {"closed", "clean_acc", "abstains"}
    assert all(isinstance(text, str) for text in files.values())


@values.value
class LogitMargin(Certificate):
    """Half the margin of logits that each have the constant: it shrinks at most twice as fast."""

    cites = "after Tsuzuku, Sato & Sugiyama 2018"
    needs = classifiers.Scores

    def bound(self, key, model, x, y, lipschitz):
        return {"radius": jnp.maximum(model.margin(x, y), 0.0) / (2 * lipschitz)}


def test_one_of_ones_own_need_not_be_of_rows():
    def logits(x):
        return 2 * x[:, 0, :2, 0]

    x, y = images([[0.9, 0.1], [0.2, 0.3]]), jnp.zeros(2, jnp.int32)
    network = classifiers.network(logits, x)
    np.testing.assert_allclose(LogitMargin()(network, x, y, lipschitz=2.0), [0.4, 0.0], rtol=1e-6)
    refused(LogitMargin(), "lipschitz=None", network, x, y)


# Refusals.

TWO_ROWS = classifier([[0.2, 0.2], [0.8, 0.8]], [0, 1])
TWO_LAYERS = classifiers.knn([TWO_ROWS.first] * 2, TWO_ROWS.images, TWO_ROWS.labels, k=1)
UNIT = classifiers.knn(TWO_ROWS.first, TWO_ROWS.images, TWO_ROWS.labels, k=1, metric="cosine")
FEATURES = classifier([[0.2, 0.2], [0.8, 0.8]], [0, 1], scale=2.0)
X, Y = images([[0.2, 0.4]]), jnp.array([0], jnp.int32)


def refused(certificate, words, model=TWO_ROWS, x=X, y=Y, **options):
    with pytest.raises(ValueError, match=words) as error:
        certificate(model, x, y, **{"key": KEY} | options)
    assert "\n" not in str(error.value)


@of_features
@pytest.mark.parametrize("lipschitz", [0.0, -1.0, np.inf, np.nan, 1e-46, 0.5])
def test_a_constant_that_is_none_is_refused(certificate, lipschitz):
    """1e-46 is 0 in float32, and the inputs themselves have no constant below 1."""
    refused(certificate, f"lipschitz={lipschitz}", lipschitz=lipschitz)


@pytest.mark.parametrize("certificate", CERTIFICATES[:2], ids=repr)
def test_without_a_constant_features_are_refused_whatever_they_equal(certificate):
    same = classifiers.knn(Partial(scaled, jnp.float32(1)), TWO_ROWS.images, TWO_ROWS.labels, k=1)
    refused(certificate, "lipschitz=None", same)
    told = certificate(same, X, Y, lipschitz=1.0)
    np.testing.assert_array_equal(told, certificate(TWO_ROWS, X, Y))


@of_features
def test_distances_that_it_does_not_cover_are_refused(certificate):
    refused(certificate, "one layer and the classifier has 2", TWO_LAYERS)
    refused(certificate, "cosine", UNIT)
    refused(certificate, "several devices", classifiers.shard(TWO_ROWS, mesh.make(jax.devices()[:1])))


@pytest.mark.parametrize(("model", "words"), [(dataclasses.replace(TWO_ROWS, k=2), "k=2")])
def test_exact_refuses_even_k_and_a_box_of_features(model, words):
    refused(Exact(), words, model)
    refused(Exact(box=True), "box=True", FEATURES, lipschitz=2.0)


@every
def test_images_and_models_that_are_none_are_refused(certificate):
    refused(certificate, "images reach from 0.0 to 1.5", x=images([[1.5, 0.0]]))
    with pytest.raises(ValueError, match=r"str lacks .*classes"):
        certificate.check("no classifier", 1.0)
    if certificate.of_features:
        refused(certificate, "out of range of 2 classes", y=jnp.array([2], jnp.int32))
    else:
        refused(certificate, "key=None", key=None)


@pytest.mark.parametrize(
    ("kind", "knobs"),
    [
        (Voronoi, {"own": 0}),
        (Voronoi, {"other": 0}),
        (Smoothing, {"sigma": 0.0}),
        (Smoothing, {"sigma": np.inf}),
        (Smoothing, {"sigma": 0.1, "samples": 0}),
        (Smoothing, {"sigma": 0.1, "alpha": 0.0}),
        (Smoothing, {"sigma": 0.1, "alpha": 1.0}),
    ],
)
def test_knobs_out_of_range_are_refused(kind, knobs):
    with pytest.raises(ValueError, match=list(knobs)[-1]):
        kind(**knobs)
