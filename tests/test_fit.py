"""Recipes brought to life: what goes together and what is refused before any long work; systems."""

import dataclasses
import math
import re

import jax.numpy as jnp
import numpy as np
import pytest
from some_digits import digits

from knn_jax import (
    attacks,
    certificates,
    classifiers,
    data,
    defenses,
    losses,
    measures,
    neighbors,
    nets,
)
from knn_jax.cli import run
from knn_jax.recipe import Evaluate, Recipe, fit
from knn_jax.training import Optim

pytestmark = pytest.mark.usefixtures("trains", "quick")
CONVNET = nets.digits_convnet()
BASIC = defenses.CrossEntropy(CONVNET)
PIXELS = defenses.Untrained(nets.Pixels())
IDRESNET = defenses.IdResNet(nets.IdResNet(10, subspaces=2, dim=3))
RACNN = defenses.RaCNN(nets.digits_racnn(), nets.digits_all_conv(), "conv2", neighbors=3)
FROZEN = defenses.RaCNN(nets.digits_frozen_racnn(), nets.digits_resnet(), "pool", neighbors=3)
REPULSIVE = defenses.Repulsive(CONVNET)
PROTOTYPES = defenses.Prototypes(nets.Pixels(), count=2)
ON_PIXELS = fit.KNN(layers=("pixels",), k=3)
IN_SUBSPACES = fit.KNN(layers=("cl",), k=20, metric=neighbors.Subspaces(2))
KNN, OPTIM = fit.KNN(k=5), Optim()


def recipe(defense=BASIC, classifier=KNN, optim=OPTIM, **more):
    """A recipe of the digits; an attack, a certificate or a measure is given without its name."""
    kinds = "attack", "certificate", "measure"
    parts = {f"{kind}s": {"it": more.pop(kind)} for kind in kinds if kind in more}
    evaluate = Evaluate(**{"images": 6} | more)
    return Recipe("tiny", data.Digits(), defense, classifier, optim=optim, evaluate=evaluate, **parts)


@pytest.fixture(scope="module")
def dataset():
    """120 training images, 12 of them held out."""
    return digits(120)


# What is refused.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fit.KNN(k=0), "k=0"),
        (lambda: fit.KNN(layers=()), "layers is empty"),
        (lambda: fit.KNN(rows=-1), "rows=-1"),
        (lambda: fit.Network(rows=-1), "rows=-1"),
        (lambda: Evaluate(images=0), "images=0"),
        (lambda: Evaluate(baseline_images=-1), "baseline_images=-1"),
        (lambda: Evaluate(certified_images=-1), "certified_images=-1"),
        (lambda: Evaluate(image_seed=-1), "image_seed=-1"),
        (lambda: Evaluate(trials=0), "trials=0"),
        (lambda: Evaluate(chunk=0), "chunk=0"),
        (lambda: Evaluate(certified_chunk=0), "certified_chunk=0"),
        (lambda: Evaluate(radii=(-1.0,)), r"radii=\(-1.0,\)"),
        (lambda: Evaluate(radii_linf=(math.nan,)), r"radii_linf=\(nan,\)"),
    ],
)
def test_values_that_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", [fit.KNN, fit.Network, fit.Prototypes, fit.Retrieval])
def test_a_classifier_has_the_knobs_that_it_uses(kind):
    """RaCNN retrieves from all; k and metric are of rows that vote; top is of scores."""
    own = {
        fit.KNN: {"layers", "k", "metric", "rows"},
        fit.Network: {"top", "rows"},
        fit.Prototypes: {"rows"},
        fit.Retrieval: {"top"},
    }
    assert {field.name for field in dataclasses.fields(kind)} == own[kind]


TOGETHER = [
    # Of the bank and the layers.
    (recipe(classifier=fit.KNN(k=109)), "k=109 neighbours asked of a bank of 108 rows"),
    (recipe(classifier=fit.KNN(k=50, rows=49)), "k=50 neighbours asked of a bank of 49 rows"),
    (recipe(classifier=fit.KNN(k=5, rows=8)), "in a bank of 8 rows"),
    (recipe(classifier=fit.Network(rows=8)), "in a bank of 8 rows"),
    (recipe(classifier=fit.KNN(layers=("relu33",))), "did you mean 'relu3'"),
    (recipe(PIXELS, KNN), "no layer 'relu3'"),
    (recipe(classifier=fit.KNN(k=5, metric=neighbors.Subspaces(7))), "no multiple of 7"),
    # Of the classifier and the defense.
    (recipe(PIXELS, fit.Network()), "Untrained trains no output"),
    (recipe(defenses.VAE(nets.digits_vae()), fit.Network()), "VAE trains no output"),
    (recipe(IDRESNET, fit.Network()), "IdResNet trains no output"),
    (recipe(defenses.Rotation(CONVNET), fit.Network()), "Rotation trains no output"),
    (recipe(classifier=fit.Prototypes()), "CrossEntropy trains no prototypes"),
    (recipe(defenses.VAE(nets.digits_vae()), fit.Prototypes()), "VAE trains no prototypes"),
    (recipe(classifier=fit.Retrieval()), "it is CrossEntropy"),
    (recipe(classifier=fit.Network(top=0)), "top=0 of 10"),
    (recipe(classifier=fit.Network(top=10)), "top=10 of 10"),
    (recipe(RACNN, fit.Retrieval(top=10)), "top=10 of 10"),
    # Of training.
    (recipe(defenses.SoftNeighbors(CONVNET, layers=("relu9",))), "no layer 'relu9'"),
    (recipe(dataclasses.replace(RACNN, layer="conv7"), fit.Retrieval()), "no layer 'conv7'"),
    (recipe(dataclasses.replace(RACNN, neighbors=108), fit.Retrieval()), "asked of 108 candidates"),
    (recipe(FROZEN, fit.Retrieval(), Optim(weight_decay=0.1)), "weight_decay=0.1"),
    (recipe(defenses.Rotation(CONVNET), optim=Optim(augment="crop")), "augment='crop'"),
    (recipe(defenses.Noisy(nets.IdResNet(10)), fit.Network()), "subspaces=1, dim=10"),
    (
        recipe(defenses.VAE(nets.digits_vae()), fit.KNN(layers=("mu",)), Optim(stopping_eps=0.1)),
        "stopping_eps=0.1",
    ),
    (recipe(dataclasses.replace(BASIC, weights="none.npz")), "none.npz"),
    # Of whose gradients attacks follow.
    *(
        (recipe(defense, classifier, attack=attacks.PGD(), sources=(source,)), message)
        for defense, classifier, source, message in (
            (PIXELS, ON_PIXELS, "network", "sources=network: Untrained"),
            (IDRESNET, IN_SUBSPACES, "network", "sources=network: IdResNet"),
            (BASIC, KNN, "held", "sources=held is for fit.Retrieval, and it is KNN"),
            (RACNN, fit.Network(), "held", "sources=held is for fit.Retrieval, and it is Network"),
            (PIXELS, ON_PIXELS, "substitute", "CrossEntropy trains no Pixels"),
            (PROTOTYPES, fit.Prototypes(), "substitute", "CrossEntropy trains no Pixels"),
            (RACNN, fit.Retrieval(), "substitute", "CrossEntropy trains no RaCNN"),
        )
    ),
    (recipe(attack=attacks.Boundary(), sources=("model", "network")), "sources=network: none"),
    # Of attacks.
    (recipe(attack=attacks.Boundary(), norms=("linf",)), "it has l2 only"),
    (recipe(attack=attacks.PGD(), norms=("linf",), radii_linf=()), "radii_linf is empty"),
    (recipe(attack=attacks.MinimumNorm(), images=361), "evaluate.images=361"),
    (recipe(attack=attacks.PGD(), baseline_images=361), "baseline_images=361"),
    (recipe(attack=attacks.KFGSM(), norms=("linf",), trials=2), "trials=2"),
    (recipe(classifier=fit.Network(), attack=attacks.Guided()), "Guided needs rows that vote"),
    (recipe(RACNN, fit.Retrieval(), attack=attacks.Hinged()), "Hinged needs rows that vote"),
    (recipe(classifier=fit.Network(), attack=attacks.KFGSM()), "KFGSM needs rows that vote"),
    (recipe(classifier=fit.Network(), attack=attacks.ASK()), "ASK needs rows that vote"),
    (recipe(REPULSIVE, fit.Prototypes(), attack=attacks.DKNN()), "DKNN learns from images"),
    (recipe(REPULSIVE, fit.Prototypes(), attack=attacks.AdvKNN()), "AdvKNN learns from images"),
    (recipe(PROTOTYPES, fit.Prototypes(), attack=attacks.LossPGD()), "LossPGD is for defenses"),
    (recipe(RACNN, fit.Retrieval(), attack=attacks.LossPGD()), "LossPGD is for defenses"),
    (recipe(attack=attacks.ASK(layers=("conv99",))), "no layer 'conv99'"),
    (recipe(REPULSIVE, fit.Prototypes(), attack=attacks.ASK(layers=("relu1",))), "('relu1',)"),
    (recipe(IDRESNET, IN_SUBSPACES, attack=attacks.ASK(layers=("image",))), "no layer 'image'"),
    (recipe(attack=attacks.ASK(k=109)), "k=109 asked of a bank of 108"),
    (recipe(attack=attacks.ASK(others=109)), "others=109 asked of a bank of 108"),
    (recipe(attack=attacks.ASK(tune=361)), "tune=361"),
    (recipe(attack=attacks.ASK(temperature=(0.1, 0.2))), "temperature=(0.1, 0.2): 1 layers"),
    (recipe(attack=attacks.ASK(layers=("relu1", "relu2"), weights=(1.0,))), "weights=(1.0,): 2"),
    # Of certificates.
    (recipe(classifier=fit.Network(), certificate=certificates.Margin()), "not Network"),
    (recipe(RACNN, fit.Retrieval(), certificate=certificates.Margin()), "not Retrieval"),
    (
        recipe(classifier=fit.KNN(("relu2", "relu3"), 5), certificate=certificates.Voronoi()),
        "('relu2', 'relu3')",
    ),
    (
        recipe(classifier=fit.KNN(k=5, metric=neighbors.Cosine()), certificate=certificates.Margin()),
        "metric=Cosine()",
    ),
    (
        recipe(defenses.Repulsive(CONVNET, metric=neighbors.Cosine()), fit.Prototypes()).but(
            certificates={"margin": certificates.Margin()}
        ),
        "metric=Cosine()",
    ),
    (recipe(IDRESNET, IN_SUBSPACES, certificate=certificates.Voronoi()), "Subspaces(count=2)"),
    (
        recipe(RACNN, fit.KNN(layers=("embedding",), k=3), certificate=certificates.Margin()),
        "RaCNN has no Lipschitz constant",
    ),
    (recipe(PIXELS, fit.KNN(("pixels",), 4), certificate=certificates.Exact()), "k=4: exact"),
    (recipe(certificate=certificates.Exact(box=True)), "box=True"),
    (recipe(certificate=certificates.VoronoiLinf()), "VoronoiLinf is of neighbours on the pixels"),
    (
        recipe(classifier=fit.Network(top=2), certificate=certificates.Smoothing(0.1)),
        "top=2",
    ),
    (recipe(certificate=certificates.Margin(), certified_images=361), "certified_images=361"),
    # Of measures.
    (recipe(classifier=fit.Network(), measure=measures.LocalDimension(5)), "classifier is Network"),
    (recipe(REPULSIVE, fit.Prototypes(), measure=measures.Credibility(5)), "it is of neighbours"),
    (recipe(measure=measures.LocalDimension(361)), "images=361"),
    (recipe(measure=measures.LocalDimension(5, neighbors=109)), "neighbors=109"),
    (recipe(measure=measures.Points(5)), "relu3 has 1 in"),
    (
        recipe(
            defenses.IdResNet(nets.IdResNet(10, subspaces=2, dim=4)),
            IN_SUBSPACES,
            measure=measures.Points(5),
        ),
        "cl has 2 in 8",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), TOGETHER, ids=[message for _, message in TOGETHER])
def test_values_that_do_not_go_together(wrong, message, dataset):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        run.check(wrong, dataset)
    assert "\n" not in str(error.value)


def test_candidates_are_for_racnn(dataset):
    more = dataset._replace(extra=dataset.train)
    with pytest.raises(ValueError, match=r"candidates .* CrossEntropy"):
        run.check(recipe(), more)
    run.check(recipe(RACNN, fit.Retrieval()), more)


def test_images_that_are_turned_are_square(dataset):
    wide = dataset._replace(
        **{
            name: data.Split(np.repeat(split.images, 2, axis=2), split.labels)
            for name, split in dataset._asdict().items()
            if isinstance(split, data.Split)
        }
    )
    with pytest.raises(ValueError, match="8x16"):
        run.check(recipe(PIXELS, ON_PIXELS, measure=measures.Credibility(5)), wide)


@pytest.mark.parametrize(
    "right",
    [
        recipe(attack=attacks.ASK(layers=("relu1", "relu2"), weights=(1.0, 0.0), k=108)),
        recipe(attack=attacks.LossPGD(), sources=("model", "network", "substitute")),
        recipe(attack=attacks.PGD(), certificate=certificates.Smoothing(0.1), trials=3),
        recipe(PIXELS, ON_PIXELS, certificate=certificates.Exact(box=True)),
        recipe(RACNN, fit.Retrieval(), attack=attacks.FGSM(), sources=("held", "network")),
        recipe(REPULSIVE, fit.Prototypes(), attack=attacks.ASK(), certificate=certificates.Exact()),
        recipe(PROTOTYPES, fit.Network(), attack=attacks.PGD(), sources=("network",)),
        recipe(IDRESNET, IN_SUBSPACES, attack=attacks.KFGSM(), measure=measures.Points(5)),
    ],
    ids=lambda one: f"{type(one.defense).__name__}-{type(one.classifier).__name__}",
)
def test_what_goes_together(right, dataset):
    run.check(right, dataset)


# What a recipe becomes.


def system(defense, classifier, dataset, folder, sources=("model",), epochs=0):
    return fit.system(defense, classifier, Optim(epochs=epochs), dataset, folder, sources)


@pytest.mark.parametrize(
    ("defense", "classifier", "label", "told"),
    [
        (BASIC, fit.KNN(("relu2", "relu3"), 5), "relu2+relu3", "5-NN on relu2+relu3"),
        (BASIC, fit.Network(), "output", "the network alone"),
        (REPULSIVE, fit.Prototypes(), "prototypes", "1-NN on prototypes"),
        (RACNN, fit.Retrieval(), "conv2", "retrieval of 3 by conv2"),
    ],
)
def test_what_decides_is_told(defense, classifier, label, told):
    assert classifier.label(defense) == label
    assert classifier.told(defense) == told


def test_the_bank_is_of_the_first_images(dataset, tmp_path):
    every, some = (
        system(PIXELS, fit.KNN(("pixels",), 3, rows=rows), dataset, tmp_path) for rows in (0, 50)
    )
    assert [len(one.model.labels) for one in (every, some)] == [108, 50]
    np.testing.assert_array_equal(some.model.banks[0], every.model.banks[0][:50])
    assert every.fingerprint != some.fingerprint
    assert every.lipschitz == 1
    assert every.model.on_inputs
    assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def basic(dataset, trains, quick, tmp_path_factory):
    """An untrained network, and a substitute beside it."""
    folder = tmp_path_factory.mktemp("basic")
    sources = "model", "network", "substitute"
    return system(BASIC, KNN, dataset, folder, sources), folder


def test_sources_are_of_the_network_and_of_one_beside_it(basic, dataset):
    made, folder = basic
    x = jnp.asarray(dataset.test.floats(0, 4))
    assert made.sources["model"] is None
    network, substitute = made.sources["network"], made.sources["substitute"]
    expected = made.trained.net.apply(made.trained.variables, x)[0]
    np.testing.assert_allclose(network.votes(x), expected, rtol=1e-5)
    assert isinstance(substitute, classifiers.Network)
    assert substitute.classes == 10
    assert {"checkpoints", "substitute"} <= {file.name for file in folder.iterdir()}


def test_attacks_can_follow_the_loss_of_training_and_other_layers(basic, dataset):
    made, _ = basic
    x, y = made.first_images(4)
    np.testing.assert_array_equal(y, dataset.test.labels[:4])
    network = made.sources["network"]
    expected = losses.cross_entropy(network.votes(x), y)
    for source in (None, network):
        np.testing.assert_allclose(made.training_loss(source)(x, y), expected, rtol=1e-5)
    other = made.on_layers(("relu1",))
    features = made.trained.net.apply(made.trained.variables, x)[1]["relu1"]
    np.testing.assert_allclose(other.first(x), features, rtol=1e-5)
    assert made.on_layers(("relu3",)) is made.model


def test_features_have_the_constant_of_their_layer(basic):
    made, _ = basic
    assert made.lipschitz == made.trained.net.lipschitz(made.trained.variables, "relu3")
    assert math.isfinite(made.lipschitz)


def test_where_certificates_do_not_reach_there_is_no_constant(basic, dataset):
    _, folder = basic
    for classifier in (fit.KNN(("relu2", "relu3"), 5), fit.Network()):
        assert system(BASIC, classifier, dataset, folder).lipschitz == math.inf


def test_only_neighbours_can_be_looked_for_in_other_layers(basic, dataset):
    made, folder = basic
    alone = system(BASIC, fit.Network(top=2), dataset, folder)
    assert alone.model.top == 2
    assert alone.fingerprint != made.fingerprint
    with pytest.raises(ValueError, match="Network"):
        alone.on_layers(("relu1",))


def test_a_network_trained_further_is_another_system_though_its_prototypes_are_the_same(
    dataset, tmp_path
):
    first, second = (system(REPULSIVE, fit.Prototypes(), dataset, tmp_path, epochs=n) for n in (0, 1))
    np.testing.assert_array_equal(first.model.banks[0], second.model.banks[0])
    assert first.fingerprint != second.fingerprint
    assert len(first.model.labels) == 10
    assert len(first.model.samples.labels) == 108
    again = system(REPULSIVE, fit.Prototypes(), dataset, tmp_path, epochs=1)
    assert again.fingerprint == second.fingerprint


def test_the_fit_needs_a_defense_that_trained_for_it(dataset, tmp_path):
    trained = PIXELS.fit(dataset, Optim(), tmp_path)
    for classifier in (fit.Prototypes(), fit.Retrieval()):
        with pytest.raises(ValueError, match="Untrained trains no"):
            classifier.fit(PIXELS, trained, dataset)
