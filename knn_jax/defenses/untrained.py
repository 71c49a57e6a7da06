"""A network that is taken as it is."""

import jax
import jax.numpy as jnp

from knn_jax import nets, values
from knn_jax.data import Dataset
from knn_jax.defenses.defense import Defense, Trained
from knn_jax.nets import Module
from knn_jax.training import Objective, Optim
from knn_jax.workdir import Place


@values.value
class Untrained(Defense):
    """No training: pixels, or a network with given or with random weights."""

    classifies = False
    cites = "none"

    def check_net(self) -> None:
        """Any network will do."""

    def objective(self, module: Module) -> Objective:
        """A loss of nothing."""
        return Objective(module.init, lambda variables, key, batch: jnp.zeros(len(batch.y)), None)

    def fit(self, dataset: Dataset, optim: Optim, folder: Place) -> Trained:
        """The network with its weights, or with those that the seed draws; nothing is written."""
        module, x = self.module(dataset.classes), jnp.asarray(dataset.train.floats(0, 2))
        if self.weights:
            return Trained(module, nets.load_weights(self.weights, module, (1, *x.shape[1:])))
        return Trained(module, jax.jit(module.init)(jax.random.key(optim.seed), x))
