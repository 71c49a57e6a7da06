"""Cross-entropy and the soft nearest neighbour loss."""

from knn_jax import losses, values
from knn_jax.defenses.adversarial import Perturbable
from knn_jax.nets import Module
from knn_jax.training import Objective, by_output


@values.value
class SoftNeighbors(Perturbable):
    """Cross-entropy plus `weight` times the soft nearest neighbour loss, summed over layers."""

    weight: float = 1.0
    """Weight of the soft nearest neighbour loss beside cross-entropy: above 0 it parts the classes, as
    in Sitawarin & Wagner 2019, who have 1; below 0 it entangles them."""
    layers: tuple[str, ...] | None = None
    """Layers in which neighbours are counted; None: all but the last."""
    temperature: float = 100.0
    """Temperature of squared distances in the soft nearest neighbour loss, which stays what it is: 100,
    about exp(4.6), is what the trained network of Sitawarin & Wagner 2019 has."""

    cites = "Frosst et al. 2019, arXiv:1902.01889; Sitawarin & Wagner 2019, arXiv:1906.09525"

    def __post_init__(self):
        super().__post_init__()
        values.above(0, temperature=self.temperature)
        if self.layers == ():
            raise ValueError("layers=(): name those in which neighbours are counted, or None")

    def named_layers(self) -> tuple[str, ...]:
        """Those in which neighbours are counted."""
        return self.layers or ()

    def unperturbed(self, module: Module) -> Objective:
        """Both losses."""

        def loss(_, output, batch):
            logits, taps = output
            chosen = [taps[layer] for layer in self.layers or list(taps)[:-1]]
            parted = [
                losses.soft_nearest_neighbors(tap, batch.y, batch.mask, self.temperature)
                for tap in chosen
            ]
            return losses.cross_entropy(logits, batch.y) + self.weight * sum(parted)

        return by_output(module, loss)
