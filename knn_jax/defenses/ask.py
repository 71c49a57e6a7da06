"""ASK-Def: the adversarial soft k-nearest-neighbour loss minimised where it is largest."""

import dataclasses

import jax
import jax.numpy as jnp

from knn_jax import losses, neighbors, values
from knn_jax.data import Dataset
from knn_jax.defenses.defense import Defense
from knn_jax.defenses.robust_loss import (
    AdversarialCrossEntropy,
    Forwarded,
    TradesLoss,
    by_forwarded,
    check_linf,
)
from knn_jax.nets import Module
from knn_jax.training import Adversary, Objective, ReferenceRows
from knn_jax.training.references import of_each_class


@values.value
class ASK(Defense):
    """A robust loss plus `weight` times the ASK loss of all layers."""

    layers: tuple[str, ...]
    """Layers in which the ASK loss counts neighbours."""
    adversary: Adversary
    """Adversary in Linf of the robust loss; the ASK loss's own images take its steps and step size."""
    eps_ask: float | None = None
    """Radius in Linf of the images that raise the ASK loss; None: twice the adversary's, as in Wang et
    al. 2021."""
    weight: float = 1.0
    """Weight of the ASK loss beside the robust loss (lambda in Wang et al. 2021, eq. 6)."""
    temperature: float = 0.1
    """Softmax temperature of cosine similarities in the ASK loss (tau in Wang et al. 2021, eq. 2)."""
    references: int = 5
    """Training images of each class that are drawn for each step."""
    beside: AdversarialCrossEntropy | TradesLoss = AdversarialCrossEntropy()
    """Robust loss that the ASK loss is added to: that of adversarial training, or that of TRADES."""

    cites = "Wang et al. 2021, arXiv:2106.14300"

    def __post_init__(self):
        super().__post_init__()
        values.above(0, eps_ask=self.eps_ask, temperature=self.temperature)
        values.at_least(1, references=self.references)
        check_linf(self.adversary, "ASK")
        if not self.layers:
            raise ValueError("layers=(): name those in which the ASK loss counts neighbours")

    def named_layers(self) -> tuple[str, ...]:
        """Those in which neighbours are counted."""
        return self.layers

    def reference_rows(self, dataset: Dataset) -> ReferenceRows:
        """Training images of every class."""
        return of_each_class(dataset.train, self.references)

    def objective(self, module: Module) -> Objective:
        """Both losses."""
        return by_forwarded(module, self.forwarded())

    def forwarded(self) -> Forwarded:
        """What a step forwards: what the robust loss does, images that raise the ASK loss, and rows.

        The ASK loss, in its `sum` form by the cosine, is taken at images that raise it in the ball of
        radius `eps_ask`, from uniform starts (Wang et al. 2021, eq. 7), over the batch's references:
        training images of every class, and those perturbed as the robust loss does. Its gradient goes
        through references too. All perturbing uses running statistics and leaves them. (In the authors'
        code nine of ten references had the wrong label, and the inner steps used and moved the batch's
        statistics.)
        """
        robust, eps = self.beside.forwarded(self.adversary), self.eps_ask
        if eps is None:
            assert self.adversary.eps is not None
            eps = 2 * self.adversary.eps
        wider = dataclasses.replace(self.adversary, eps=eps)

        def inputs(forward, key, batch):
            first, perturb, begin = jax.random.split(key, 3)
            classes = len(batch.references.x)
            clean = batch.references.x.reshape(-1, *batch.x.shape[1:])
            y, every = batch.references.y.reshape(-1), jnp.ones(len(clean), bool)
            chosen = batch._replace(x=clean, clean=clean, y=y, mask=every)
            perturbed = robust.inputs(forward, perturb, chosen)[-1][0]
            rows = jnp.concatenate([clean, perturbed])
            held = forward(rows)[1]
            start = batch.x + wider.start(begin, batch.x.shape)

            def total(z):
                return self.ask(forward(z)[1], held, classes, batch.y)

            x = wider.ascend(total, batch.clean, start)
            rows = rows, jnp.ones(len(rows), bool)
            return *robust.inputs(forward, first, batch), (x, batch.mask), rows

        def both(outputs, batch):
            *others, (_, taps), (_, rows) = outputs
            ask = self.ask(taps, rows, len(batch.references.x), batch.y)
            return robust.loss(tuple(others), batch) + self.weight * ask

        return Forwarded(inputs, both)

    def ask(self, taps, held, classes: int, y):
        """The ASK loss of the layers of images and of rows: all clean ones class by class, then all
        perturbed."""
        total = jnp.zeros(len(y))
        for layer in self.layers:
            rows = held[layer].reshape(2, classes, -1, held[layer].shape[1])
            rows = jnp.concatenate([rows[0], rows[1]], 1)
            alike = losses.similarity(taps[layer], rows, neighbors.Cosine()) / self.temperature
            mask = jnp.ones((1, *alike.shape[1:]), bool)
            total += losses.adversarial_soft_neighbors(alike, y, mask, "sum")
        return total
