"""A classifier trained by cross-entropy."""

from knn_jax import losses, values
from knn_jax.defenses.adversarial import Perturbable
from knn_jax.nets import Module
from knn_jax.training import Objective, by_output


@values.value
class CrossEntropy(Perturbable):
    """Cross-entropy on the network's output: with an adversary, adversarial training."""

    one_image = True
    cites = (
        "Sitawarin & Wagner 2019, arXiv:1906.09525, section 4.1; Madry et al. 2018, arXiv:1706.06083"
    )

    def unperturbed(self, module: Module) -> Objective:
        """Cross-entropy of logits."""
        return by_output(module, lambda _, output, batch: losses.cross_entropy(output[0], batch.y))
