"""A system that costs nothing, and attacks and a certificate of it whose results are known beforehand.

Three of an image's pixels are the scores of its three classes.
"""

import jax
import jax.numpy as jnp
import numpy as np

from knn_jax import attacks, balls, certificates, classifiers, data, defenses, nets, values
from knn_jax.attacks.judgement import judge
from knn_jax.recipe import Evaluate, Recipe, fit
from knn_jax.recipe.fit import System

CLASSES = 3
SIDE = 2
WRONG = 4  # the one test image that is not what its label says


def scores(x):
    """The first pixels."""
    return x.reshape(len(x), -1)[:, :CLASSES]


def dataset(tests=20):
    """Images at random; the largest of the first pixels is the class, but for one."""
    rng = np.random.default_rng(0)

    def split(count):
        images = rng.uniform(0.2, 0.8, (count, SIDE, SIDE, 1)).astype(np.float32)
        return data.Split(images, np.asarray(scores(images).argmax(1), np.int32))

    train, valid, test = split(30), split(10), split(tests)
    test.labels[WRONG] = (test.labels[WRONG] + 1) % CLASSES
    return data.Dataset(train, valid, test, CLASSES)


def system(fingerprint="of the stub", **changes):
    """The scores as a classifier; another network is followed by `other`."""
    given = dataset()
    images, labels = jnp.asarray(given.train.images), jnp.asarray(given.train.labels)
    model = classifiers.network(scores, images, labels)
    defense = defenses.Untrained(nets.Pixels())
    trained = defenses.Trained(defense.module(CLASSES), {})
    decides, sources = fit.Network(), {"model": None, "network": model, "substitute": model}
    made = {"lipschitz": 1.0, "sources": sources} | changes
    return System(
        given,
        model,
        fingerprint=fingerprint,
        classifier=decides,
        defense=defense,
        trained=trained,
        **made,
    )


@values.value
class Lower(attacks.BallAttack):
    """Lowers the score of the class by a share of the radius, drawn for each image."""

    share: float = 1.0
    """Share of the radius at most."""
    steps: int = 2
    """Gradients that it says it took."""

    cites = "none"

    def search(self, key, model, source, x, y, norm, eps):
        """The share is drawn by the image's place."""
        places = jnp.arange(len(x))
        drawn = jax.vmap(lambda place: jax.random.uniform(jax.random.fold_in(key, place)))(places)
        lowered = -jax.nn.one_hot(y, x[0].size)
        size = eps * self.share * (0.5 + 0.5 * drawn)
        image = x + size[:, None, None, None] * lowered.reshape(x.shape)
        return judge(model, x, y, jnp.clip(image, 0.0, 1.0), norm, jnp.asarray(self.steps), 0)


@values.value
class Still(Lower):
    """The same without drawing anything."""

    draws = False


@values.value
class Shift(attacks.MinimizationAttack):
    """Brightens every image by as much as its key says, and calls that a success."""

    far: float = 0.5
    """Most that it brightens by."""
    steps: int = 4
    """Gradients that it says it took."""

    cites = "none"
    primary = True
    follows = classifiers.Surrogate

    def search(self, key, model, source, x, y, norm):
        """As many forwards as there are classes in the source."""
        places = jnp.arange(len(x))
        drawn = jax.vmap(lambda place: jax.random.uniform(jax.random.fold_in(key, place)))(places)
        image = jnp.clip(x + self.far * drawn[:, None, None, None] * source.k, 0.0, 1.0)
        length = balls.ball(norm, 0.0).norm(image - x)
        return attacks.Found(image, length, y >= 0, jnp.asarray(self.steps), jnp.asarray(0))


@values.value
class Baseline(Shift):
    """The same as others have it: on fewer images, in L2, by the classifier's own gradients."""

    primary = False
    follows = None
    norms = ("l2",)


@values.value
class Tenth(certificates.Certificate):
    """A radius of a share of the largest score where the class is right."""

    share: float = 0.1
    """Of the largest score."""

    cites = "none"
    needs = classifiers.Predicts

    def bound(self, key, model, x, y, lipschitz):
        """The radius."""
        best = x.max((1, 2, 3)) * self.share
        return {"radius": jnp.where(model.predict(x) == y, best, 0.0)}


def recipe(**changes):
    """The stub's recipe; its data are the digits, which nothing reads."""
    base = Recipe(
        name="stub",
        data=data.Digits(),
        defense=defenses.Untrained(nets.Pixels()),
        classifier=fit.KNN(layers=("pixels",), k=3, rows=200),
        attacks={"shift": Shift(), "lower": Lower()},
        certificates={"tenth": Tenth()},
        evaluate=Evaluate(images=10, chunk=4, certified_chunk=12, radii=(0.1, 0.3)),
    )
    return base.but(**changes)
