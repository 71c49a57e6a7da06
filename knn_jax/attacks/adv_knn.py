"""A small network that imitates the neighbours' vote, to be attacked in its place."""

import functools
import math

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, PyTree

from knn_jax import balls, classifiers, losses, neighbors, values
from knn_jax.attacks import checks
from knn_jax.attacks.ascent import Ascent, relative
from knn_jax.attacks.attack import Found
from knn_jax.classifiers import GivenImages, GivenLabels, Votes
from knn_jax.values import given
from knn_jax.values.given import Real


@values.value
class AdvKNN(Ascent):
    """Projected gradient ascent of the cross-entropy of a network that imitates the vote (Li et al.).

    The imitation (their deep kNN block) takes the place of a source: `prepare` trains it, as `imitate`
    does. The loss is differentiable at the image as it is, so nothing is retrieved.
    """

    step_size: float = 0.25
    """Length of a step as a share of eps."""
    epochs: int = 100
    """Epochs that the imitation is trained for, over the rows of the bank."""
    width: int = 256
    """Hidden units of the imitation, for each layer of features."""
    batch_size: int = 128
    """Rows of the bank in a training step of the imitation."""
    learning_rate: float = 1e-3
    """Learning rate of Adam, by which the imitation is trained."""

    needs = Votes
    whole = True
    cites = "Li et al. 2019, AdvKNN, arXiv:1911.06591"

    def __post_init__(self):
        super().__post_init__()
        _check(self.epochs, self.width, self.batch_size, self.learning_rate)

    def check_plan(self, plan):
        """Also for prototypes, of which how one fares among the others says nothing."""
        super().check_plan(plan)
        if not plan.of_images:
            raise ValueError(f"{type(self).__name__} learns from images that vote: use fit.KNN(...)")

    def prepare(self, key, victim, source, norm, radii):
        """The imitation of the victim stands in the place of the source."""
        numbers = {"epochs": self.epochs, "width": self.width, "batch_size": self.batch_size}
        return self, imitate(key, victim.model, **numbers, learning_rate=self.learning_rate)

    def source(self, model, source):
        """The imitation; ValueError where there is none."""
        if not hasattr(source, "logits"):
            raise ValueError(
                "AdvKNN follows the logits of an imitation: give source=attacks.imitate(key, model)"
            )
        return source

    def search(self, key, model, source, x, y, norm, eps):
        """The ascent up the cross-entropy of the imitation `source`."""

        def nothing(keys, z, y):
            return ()

        def loss(z, y, _):
            return losses.cross_entropy(source.logits(z), y)

        return self.ascend(key, model, x, y, nothing, loss, norm, eps, searches=0)


def adv_knn(
    key: Array,
    model: Votes,
    x: GivenImages,
    y: GivenLabels,
    *,
    imitation: classifiers.Network,
    eps: Real,
    norm: balls.Norm = "linf",
    steps: int = 20,
    step_size: Real | None = None,
    restarts: int = 1,
) -> Found:
    """`AdvKNN` inside the eps-ball around x, by an `imitation` that `imitate` has trained.

    `step_size` is in units of the images, eps / 4 unless given.

    Raises ValueError for images outside [0, 1], labels out of range and numbers that are too small.
    """
    share = AdvKNN.step_size if step_size is None else relative(step_size, eps)
    made = AdvKNN(steps, share, restarts)
    return made(key, model, x, y, norm=norm, eps=eps, source=imitation)


def imitate(
    key: Array,
    model: Votes,
    *,
    epochs: int = 100,
    width: int = 256,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
) -> classifiers.Network:
    """A network trained to give the classes the shares that they have of k-NN's votes.

    Li et al. (2019, arXiv:1911.06591) call it a deep kNN block; what theirs is made of they leave open.
    Here a layer of `width` ReLUs on the features of each of the classifier's layers, divided by their
    root mean square, whose softmax is fitted by cross-entropy to the votes of the bank's own rows, each
    left out of its neighbours. The layers' shares are added, as votes are. The training for a layer is
    one compiled program.

    Raises ValueError for numbers that are too small.
    """
    classifiers.require(model, Votes, "imitate")
    checks.one_device(model, "imitate")
    epochs, width = given.whole("epochs", epochs), given.whole("width", width)
    batch_size = given.whole("batch_size", batch_size)
    _check(epochs, width, batch_size, learning_rate)
    numbers = {"epochs": epochs, "width": width, "batch_size": batch_size}
    knobs = {
        "k": model.k,
        "metric": classifiers.feature_metric(model.metric),
        "classes": model.classes,
        **numbers,
    }
    keys, rate = jax.random.split(key, len(model.banks)), jnp.float32(learning_rate)
    pairs = zip(keys, model.banks, strict=True)
    blocks = tuple(_fit(own, bank, model.labels, rate, **knobs) for own, bank in pairs)
    return classifiers.Network(Partial(_logits, model.features, blocks), model.classes)


def _check(epochs, width, batch_size, learning_rate):
    values.at_least(1, epochs=epochs, width=width, batch_size=batch_size)
    values.above(0, learning_rate=learning_rate)


def _logits(features, blocks, x):
    """Log of the mean over layers of what their blocks give each class."""
    layers = zip(features(x), blocks, strict=True)
    shares = [jax.nn.log_softmax(_block(block, query)) for query, block in layers]
    return jax.nn.logsumexp(jnp.stack(shares), 0) - math.log(len(blocks))


def _block(block, features):
    hidden = jax.nn.relu(features / block["scale"] @ block["in"] + block["bias"][None])
    return hidden @ block["out"] + block["offset"][None]


@functools.partial(jax.jit, static_argnames=("k", "metric", "classes", "epochs", "width", "batch_size"))
def _fit(key, bank, labels, learning_rate, *, k, metric, classes, epochs, width, batch_size):
    rows, dim = bank.shape
    batch_size = min(batch_size, rows)

    def votes(query, row):
        every = jnp.arange(rows)
        near = neighbors.search(query, bank, min(k, rows - 1), metric=metric, labels=every, without=row)
        return neighbors.votes(labels[near.index], classes).astype(bank.dtype) / min(k, rows - 1)

    shares = neighbors.in_tiles(votes, classifiers.BATCH)(bank, jnp.arange(rows))
    first, second, key = jax.random.split(key, 3)
    parameters = {
        "in": jax.random.normal(first, (dim, width), jnp.float32) * (2 / dim) ** 0.5,
        "bias": jnp.zeros(width, jnp.float32),
        "out": jax.random.normal(second, (width, classes), jnp.float32) * (2 / width) ** 0.5,
        "offset": jnp.zeros(classes, jnp.float32),
    }
    scale = jnp.maximum(jnp.sqrt(jnp.mean(jnp.square(bank))), 1e-12)
    optimizer = optax.adam(learning_rate)

    def step(carry, chosen):
        parameters, state = carry

        def loss(parameters):
            logits = _block({**parameters, "scale": scale}, bank[chosen])
            return optax.softmax_cross_entropy(logits, shares[chosen]).mean()

        with jax.numpy_dtype_promotion("standard"):  # optax.adam raises floats to integers
            updates, state = optimizer.update(jax.grad(loss)(parameters), state)
        return (optax.apply_updates(parameters, updates), state), None

    def epoch(carry, key):
        order = jax.random.permutation(key, rows)
        batches = order[: rows - rows % batch_size].reshape(-1, batch_size)
        return lax.scan(step, carry, batches)[0], None

    fitted: PyTree
    start = parameters, optimizer.init(parameters)
    fitted, _ = lax.scan(epoch, start, jax.random.split(key, epochs))[0]
    return {**fitted, "scale": scale}
