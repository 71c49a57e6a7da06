"""TRADES: cross-entropy on clean images, and how far perturbed ones move the classes' shares."""

from knn_jax import values
from knn_jax.defenses.defense import Defense
from knn_jax.defenses.robust_loss import TradesLoss, by_forwarded, check_linf
from knn_jax.nets import Module
from knn_jax.training import Adversary, Objective


@values.value
class Trades(Defense):
    """Cross-entropy, and `beta` times the divergence of classes' shares that an adversary causes."""

    adversary: Adversary
    """Adversary in Linf whose images raise the divergence of the classes' shares."""
    beta: float = 6.0
    """Weight of that divergence in TRADES (1 / lambda in Zhang et al. 2019)."""

    cites = "Zhang et al. 2019, arXiv:1901.08573"

    def __post_init__(self):
        super().__post_init__()
        values.at_least(0, beta=self.beta)
        check_linf(self.adversary, "Trades")

    def objective(self, module: Module) -> Objective:
        """The loss of `TradesLoss`."""
        return by_forwarded(module, TradesLoss(self.beta).forwarded(self.adversary))
