"""A network that answers among retrieved neighbours, trained by local mixup; and its retrieval."""

import dataclasses
import functools
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, Key, PyTree

from knn_jax import classifiers, mesh, neighbors, nets, training, values
from knn_jax.classifiers.embedding import embedded
from knn_jax.data import Dataset, Split
from knn_jax.defenses.cross_entropy import CrossEntropy
from knn_jax.defenses.defense import Defense, Trained
from knn_jax.display import progress
from knn_jax.nets import STATISTICS, Module, Net, RetrievalAugmented
from knn_jax.nets.racnn import RaCNNModule
from knn_jax.training import Batch, Objective, Optim
from knn_jax.training.references import from_table
from knn_jax.workdir import Place, digest, files
from knn_jax.workdir.bucket import Unreachable


@dataclasses.dataclass(frozen=True)
class Retriever(Trained):
    """The network that is retrieved by (phi' and g' of Zhao & Cho 2018), and its keys of images."""

    keys: Partial


@dataclasses.dataclass(frozen=True)
class TrainedRaCNN(Trained):
    """A network that answers among neighbours, and the one that retrieves them."""

    retriever: Retriever


@values.value
class RaCNN(Defense):
    """Cross-entropy of the answer among neighbours for some steps, then local mixup for some."""

    retriever: Net
    """Network that is trained first, by cross-entropy, and by whose features neighbours are found."""
    layer: str
    """Layer of the retriever by whose features neighbours are retrieved."""
    neighbors: int = 10
    """Neighbours that are retrieved for each image of a step (K in Zhao & Cho 2018)."""
    ce_steps: int = 1
    """Steps by cross-entropy, before the next by local mixup; the paper does not tell how many."""
    mixup_steps: int = 5
    """Steps by local mixup, before the next by cross-entropy; 0: no mixup."""
    project: int | None = None
    """Numbers that the features retrieved by are projected to at random; None: as they are."""
    retriever_weights: str = ""
    """An .npz of PyTorch weights of the retriever, which is then not trained; empty: it is."""

    only = RetrievalAugmented
    cites = "Zhao & Cho 2018, arXiv:1802.09502"

    def __post_init__(self):
        super().__post_init__()
        values.at_least(2, neighbors=self.neighbors)
        values.at_least(1, ce_steps=self.ce_steps, project=self.project)
        values.at_least(0, mixup_steps=self.mixup_steps)
        CrossEntropy(self.retriever, weights=self.retriever_weights)
        if isinstance(self.net, nets.FrozenRaCNN) and self.retriever != self.net.body:
            raise ValueError(
                f"retriever={self.retriever}: the features of a FrozenRaCNN are those it retrieves by: "
                f"give its body, {self.net.body}"
            )

    def check(self, dataset: Dataset, optim: Optim) -> None:
        """Besides, enough candidates, and no weight decay of what stays."""
        rows, frozen = len(dataset.candidates.labels), cast(RetrievalAugmented, self.net).frozen
        if self.neighbors >= rows:
            raise ValueError(f"neighbors={self.neighbors} asked of {rows} candidates for retrieval")
        if frozen and optim.weight_decay:
            raise ValueError(
                f"weight_decay={optim.weight_decay} would change the features of a FrozenRaCNN: use 0"
            )
        super().check(dataset, optim)
        CrossEntropy(self.retriever, weights=self.retriever_weights).check(dataset, optim)
        shape = (1, *dataset.train.images.shape[1:])
        nets.layer_shapes(self.retriever.build(dataset.classes), (self.layer,), shape)

    def fit(self, dataset: Dataset, optim: Optim, folder: Place) -> TrainedRaCNN:
        """The retriever is trained first, below `folder`, then the table of neighbours is made."""
        retriever = self.fit_retriever(dataset, optim, folder)
        module = self.module(dataset.classes)
        objective = self.objective(module)
        if cast(RetrievalAugmented, self.net).frozen:
            objective = adopting(objective, cast(RaCNNModule, module), retriever.variables)
        table = self.table(retriever, dataset, folder)
        beside = functools.partial(self._beside, retriever, dataset)
        rows = from_table(beside, dataset.candidates.labels, table)
        variables = training.train(objective, dataset, optim, folder, mesh.make(), rows)
        return TrainedRaCNN(module, variables, retriever)

    def fit_retriever(self, dataset: Dataset, optim: Optim, folder: Place) -> Retriever:
        """The network that is retrieved by, without early stopping."""
        progress.say("the network whose features are retrieved by")
        optim = dataclasses.replace(optim, stopping_eps=None)
        plain = CrossEntropy(self.retriever, weights=self.retriever_weights)
        found = plain.fit(dataset, optim, folder / "retriever")
        shape = (1, *dataset.train.images.shape[1:])
        keys = nets.features(found.net, found.variables, (self.layer,), shape)
        if self.project is not None:
            [one] = jax.eval_shape(keys, jax.ShapeDtypeStruct(shape, jnp.float32))
            size = one.shape[1], self.project
            matrix = jax.random.normal(jax.random.key(optim.seed), size) / self.project**0.5
            keys = Partial(_projected, matrix, keys)
        return Retriever(found.net, found.variables, keys)

    def candidates(self, retriever: Retriever, split: Split, k: int) -> classifiers.KNN:
        """k-NN on the keys of the candidates for retrieval."""
        return classifiers.knn(
            *(retriever.keys, classifiers.banked(split.images), jnp.asarray(split.labels)),
            k=k,
            names=(self.layer,),
            track=lambda batches: progress.track(batches, "keys of the candidates"),
        )

    def _beside(self, retriever: Retriever, dataset: Dataset) -> np.ndarray:
        """What neighbours' features are made of: the candidates' images, or where features stay as they
        are, these features."""
        images = dataset.candidates.images
        if not cast(RetrievalAugmented, self.net).frozen:
            return images[:]
        shape = (1, *images.shape[1:])
        phi = nets.features(retriever.net, retriever.variables, ("pool",), shape)
        track = functools.partial(progress.track, what="features")
        [found] = embedded(phi, classifiers.banked(images), track)
        return np.asarray(found)

    def table(
        self, retriever: Retriever, dataset: Dataset, folder: Place
    ) -> Int[np.ndarray, "image count"]:
        """The neighbours of every training image among the candidates, not itself; kept in the folder,
        and searched anew where the file is damaged. ValueError where it is of another retriever."""
        file, shape = folder / "neighbors.npz", (len(dataset.train.labels), self.neighbors)
        by, held = digest(*jax.tree.leaves(retriever.variables)), {}
        if files.exists(file):
            try:
                held = files.arrays(file)
            except Unreachable:
                raise
            except ValueError as error:
                progress.say(f"{error}: searched anew")
        if str(held.get("retriever", by)) != by:
            raise ValueError(f"{file} was made by another retriever: use another --workdir")
        if (table := held.get("index", np.zeros(0))).shape == shape:
            return table
        if held:
            progress.say(f"{file} is of shape {table.shape}, not {shape}: searched anew")
        near = self.candidates(retriever, dataset.candidates, self.neighbors)
        table = _neighbors(near, dataset)
        if mesh.first():
            with files.whole(file) as scratch, open(scratch, "wb") as stream:
                np.savez(stream, index=table, retriever=by)  # not .npy, which has no checksum
        return table

    def objective(self, module: Module) -> Objective:
        """Cross-entropy of the answer among neighbours for `ce_steps` of training, then local mixup for
        `mixup_steps`, and so on (Zhao & Cho 2018, section 2.3).

        A batch's references are each image's neighbours. Local mixup asks of a point drawn uniformly
        from the convex hull of their features the same mixture of their labels. All features are
        computed anew and carry gradients, their statistics those of images and neighbours together; of
        a network that stays as it is, references are features that were computed once. Each step takes
        a batch of its own, where the paper may have taken several with one.
        """
        classes, frozen = cast(RaCNNModule, module).classes, cast(RaCNNModule, module).frozen

        def loss(variables, key, batch: Batch):
            return answered(functools.partial(module.apply, variables), key, batch, False, False)

        def train_loss(variables, key, batch):
            mask = jnp.repeat(batch.mask, 1 + batch.references.y.shape[1])
            apply = functools.partial(module.apply, mutable=[STATISTICS])
            moved: dict[str, PyTree] = {}

            def call(*arguments, **knobs):
                output, found = apply({**variables, **moved}, *arguments, **knobs)
                moved.update(found)
                return output

            return answered(call, key, batch, mask, batch.mask), moved

        def answered(apply, key, batch, train, train_head):
            beside, count = batch.references, batch.references.y.shape[1]
            if frozen:
                query, rows = apply(batch.x, train, method="embed"), beside.x
            else:
                every = jnp.concatenate([batch.x[:, None], beside.x], 1)
                found = apply(every.reshape(-1, *batch.x.shape[1:]), train, method="embed")
                found = found.reshape(len(batch.x), 1 + count, -1)
                query, rows = found[:, 0], found[:, 1:]
            mixing = batch.step % (self.ce_steps + self.mixup_steps) >= self.ce_steps
            attended = apply(query, rows, method="attend")
            alpha = jnp.where(mixing, simplex(key, beside.y.shape), attended)
            logits = apply(alpha, rows, train_head, method="classify")
            mixed = jnp.einsum("bk,bkc->bc", alpha, jax.nn.one_hot(beside.y, classes))
            target = jnp.where(mixing, mixed, jax.nn.one_hot(batch.y, classes))
            return optax.softmax_cross_entropy(logits, target)

        return Objective(module.init, loss, None, train_loss)


def adopting(objective: Objective, module: RaCNNModule, variables: PyTree) -> Objective:
    """The objective, begun with the variables of the network that is retrieved by."""

    def init(key, images):
        return module.adopt(objective.init(key, images), variables)

    return objective._replace(init=init)


def simplex(key: Key[Array, ""], shape: tuple[int, int]) -> Float[Array, "batch k"]:
    """Coefficients uniform on the simplex of each row: the gaps between k - 1 sorted uniform numbers
    (Kraemer's algorithm, Smith & Tromble 2004, section 4.2)."""
    rows, k = shape
    inner = jnp.sort(jax.random.uniform(key, (rows, k - 1)))
    return jnp.diff(inner, prepend=jnp.zeros((rows, 1)), append=jnp.ones((rows, 1)))


def _neighbors(near: classifiers.KNN, dataset: Dataset) -> np.ndarray:
    """Row numbers (row of the training set, k) of the nearest candidates, not of an image itself."""
    every, rows = jnp.arange(len(near.labels)), len(dataset.train.labels)

    @jax.jit
    def found(near, x, rows):
        query, bank = near.first(x), near.banks[0]
        if dataset.extra is None:
            return neighbors.search(query, bank, near.k, labels=every, without=rows).index
        return neighbors.search(query, bank, near.k).index

    size, parts = classifiers.BATCH, []
    for first in progress.track(range(0, rows, size), "neighbours of the training images"):
        chosen = np.minimum(np.arange(first, first + size), rows - 1)  # one shape, one program
        x = Split(dataset.train.images[chosen], chosen).floats(0, size)
        parts.append(np.asarray(found(near, x, chosen)))
    return np.concatenate(parts)[:rows]


def _projected(matrix, keys, x):
    return keys(x)[0] @ matrix
