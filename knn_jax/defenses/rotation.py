"""A classifier of the orientation of images, which needs no labels."""

from knn_jax import data, losses, values
from knn_jax.data import Dataset
from knn_jax.defenses.adversarial import Perturbable
from knn_jax.nets import Module
from knn_jax.training import Objective, Optim, by_output


@values.value
class Rotation(Perturbable):
    """Cross-entropy on the quarter turns by which images are turned."""

    classifies = False
    cites = "Gidaris et al. 2018, arXiv:1803.07728; Sitawarin & Wagner 2019, arXiv:1906.09525"

    def module(self, classes: int) -> Module:
        """A classifier of turns, whatever the classes."""
        return self.net.build(data.TURNS)

    def data(self, dataset: Dataset) -> Dataset:
        """Every image in four orientations."""
        return data.rotated(dataset)

    def check(self, dataset: Dataset, optim: Optim) -> None:
        """Besides, no augmentation."""
        if optim.augment != "none":
            raise ValueError(
                f"augment={optim.augment!r} mirrors images, which changes the turns that rotation "
                "learns: use 'none'"
            )
        super().check(dataset, optim)

    def unperturbed(self, module: Module) -> Objective:
        """Cross-entropy of logits."""
        return by_output(module, lambda _, output, batch: losses.cross_entropy(output[0], batch.y))
