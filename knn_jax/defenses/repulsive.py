"""Fixed prototypes far apart, one for each class, that a network maps its images to."""

from typing import cast

from knn_jax import losses, nets, values
from knn_jax.defenses.adversarial import Perturbable
from knn_jax.defenses.defense import Trained
from knn_jax.neighbors import Chebyshev, Cosine, Euclidean, Metric
from knn_jax.neighbors.metric import check_metric
from knn_jax.nets import Module, PrototypesModule
from knn_jax.training import Objective, by_output

DIMS = 10  # of the space of prototypes for each class, unless given (Serban et al. 2021, section 4)


@values.value
class Repulsive(Perturbable):
    """The distance of an image's point from the fixed prototype of its class."""

    dim: int | None = None
    """Dimensions of the prototypes' space (D in Serban et al. 2021); None: ten times the classes."""
    metric: Metric = Euclidean()
    """Distance of prototypes from each other and of points from them (d in Serban et al. 2021)."""

    one_image = True
    cites = "Serban, Poll & Visser 2021, arXiv:2105.12427, equations 5 and 6"

    def __post_init__(self):
        super().__post_init__()
        values.at_least(1, dim=self.dim)
        check_metric(self.metric)

    def module(self, classes: int) -> Module:
        """The network with as many outputs as the space has dimensions, judged by fixed prototypes."""
        body = self.net.build(DIMS * classes if self.dim is None else self.dim)
        return PrototypesModule(body, classes, self.metric)

    def summary(self, trained: Trained) -> dict[str, float]:
        """How far its prototypes are apart, of the most that so many can be (`nets.separation`), by
        metrics of which that is known."""
        if not (isinstance(self.metric, Cosine | Chebyshev) or self.metric == Euclidean()):
            return {}
        rows = cast(PrototypesModule, trained.net).rows(trained.variables)[:, 0]
        return {"separation": float(nets.separation(rows, self.metric))}

    def unperturbed(self, module: Module) -> Objective:
        """The loss of `losses.to_prototype`."""
        prototypes = cast(PrototypesModule, module)

        def loss(variables, output, batch):
            own = prototypes.rows(variables)[batch.y, 0]
            return losses.to_prototype(output[1]["points"], own, self.metric)

        return by_output(module, loss)
