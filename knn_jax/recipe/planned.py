"""A system before its network is trained, as attacks and certificates check it."""

import dataclasses
from collections.abc import Mapping

from knn_jax.attacks import Attack
from knn_jax.certificates import Certificate
from knn_jax.data import Dataset
from knn_jax.defenses import Defense
from knn_jax.recipe.fit import KNN, Classifier, Network, Retrieval


@dataclasses.dataclass(frozen=True)
class Planned:
    """The `attacks.Plan` and `certificates.Plan` of a recipe's values."""

    defense: Defense
    classifier: Classifier
    dataset: Dataset

    def check(self, kind: str, methods: Mapping[str, Attack | Certificate]) -> None:
        """Raises ValueError, with its name in the recipe, for a method that is not of this system."""
        for name, method in methods.items():
            try:
                method.check_plan(self)
            except ValueError as error:
                raise ValueError(f"{kind}.{name}: {error}") from error

    def check_images(self, field: str, count: int) -> None:
        """Raises ValueError for more test images than there are."""
        if count > self.tests:
            raise ValueError(f"evaluate.{field}={count}: the test set has {self.tests} images")

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers in which rows vote; none where no rows do."""
        return self.classifier.searched()

    @property
    def of_images(self) -> bool:
        """Whether the rows that vote are those of images, not prototypes."""
        return isinstance(self.classifier, KNN)

    @property
    def k(self) -> int:
        """Nearest rows that vote."""
        return self.classifier.k if isinstance(self.classifier, KNN) else 1

    @property
    def top(self) -> int:
        """How many classes are named."""
        return self.classifier.top if isinstance(self.classifier, Network | Retrieval) else 1

    @property
    def on_inputs(self) -> bool:
        """Whether the features are the pixels themselves."""
        return self.classifier.on_inputs(self.defense)

    @property
    def uncertified(self) -> str:
        """Why no certificate of features covers it; empty where they do."""
        return self.classifier.uncertified(self.defense)

    @property
    def rows(self) -> int:
        """Training images in the bank."""
        return self.classifier.bank_rows(self.dataset)

    @property
    def tests(self) -> int:
        """Test images."""
        return len(self.dataset.test.labels)

    @property
    def one_image(self) -> bool:
        """Whether the network's loss is of one image and its class."""
        return self.defense.one_image

    def check_layers(self, layers: tuple[str, ...]) -> None:
        """Raises ValueError for layers on which rows cannot vote."""
        self.classifier.on(layers).check(self.defense, self.dataset)
