"""How a network is trained: the optimizer, its schedule, and what is done to the images."""

from typing import Literal

import optax

from knn_jax import values


@values.value
class Optim:
    """How a network is trained."""

    optimizer: Literal["adam", "sgd"] = "adam"
    """Optimizer; `sgd` has Nesterov's momentum of 0.9."""
    peak_lr: float = 1e-3
    """Learning rate before any drop, or the largest of each cycle."""
    batch_size: int = 128
    """Images in a step of training; the last batch is masked, not dropped."""
    epochs: int = 15
    """Passes over the training images."""
    drops: tuple[int, ...] = ()
    """Epochs at which the learning rate falls to a tenth."""
    cycles: int = 0
    """Cycles of the learning rate from 0 to its peak and back; 0: it only drops."""
    weight_decay: float = 0.0
    """Share of a parameter added to its gradient before the optimizer scales it."""
    augment: Literal["none", "crop", "affine", "resized_crop"] = "none"
    """Random changes of training images: `crop` crops and mirrors them, `affine` also turns, shears,
    moves, scales and brightens them, `resized_crop` takes parts of them, resized, and mirrors these."""
    stopping_eps: float | None = None
    """Radius in Linf of the PGD on validation images that chooses the epoch to keep (early stopping);
    None: the last is kept."""
    seed: int = 2019
    """Seed of the initialisation, of the order of images and of all other draws."""

    def __post_init__(self):
        values.one_of(("adam", "sgd"), optimizer=self.optimizer)
        values.one_of(("none", "crop", "affine", "resized_crop"), augment=self.augment)
        values.above(0, peak_lr=self.peak_lr, stopping_eps=self.stopping_eps)
        values.at_least(1, batch_size=self.batch_size)
        values.at_least(0, epochs=self.epochs, cycles=self.cycles, weight_decay=self.weight_decay)
        values.at_least(0, drops=self.drops)
        if self.cycles and self.drops:
            raise ValueError(f"cycles={self.cycles} with drops={self.drops}: give one of them")

    def schedule(self, per_epoch: int) -> optax.Schedule:
        """The learning rate of each step, of which an epoch has so many."""
        if not self.cycles:
            drops = {epoch * per_epoch: 0.1 for epoch in self.drops}
            return optax.piecewise_constant_schedule(self.peak_lr, drops)
        half = max(1, round(self.epochs * per_epoch / self.cycles / 2))
        rise, fall = (
            optax.linear_schedule(*ends, half) for ends in ((0.0, self.peak_lr), (self.peak_lr, 0.0))
        )
        turns = [half * i for i in range(1, 2 * self.cycles)]
        return optax.join_schedules([rise, fall] * self.cycles, turns)

    def transformation(self, per_epoch: int) -> optax.GradientTransformation:
        """What makes a step of a gradient."""
        rate = self.schedule(per_epoch)
        if self.optimizer == "adam":
            found = optax.adam(rate)
        else:
            found = optax.sgd(rate, momentum=0.9, nesterov=True)
        if self.weight_decay:
            found = optax.chain(optax.add_decayed_weights(self.weight_decay), found)
        return found
