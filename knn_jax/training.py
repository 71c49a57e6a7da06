"""Trains a representation: resumable at any step, the same bits whether interrupted or not."""

import functools
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from knn_jax import augment, config, data, mesh, progress, validation
from knn_jax.checkpoints import Best, Checkpoints, State
from knn_jax.defenses import STATISTICS, Batch, Defense, Others
from knn_jax.references import References

NEVER = np.iinfo(np.int32).max  # no step has this number


def train(
    defense: Defense,
    dataset: data.Dataset,
    knobs: config.Optim,
    folder: Path,
    devices: Mesh | None = None,
    references: References | None = None,
) -> Any:
    """The trained variables: read from the checkpoint in `folder` and trained for what is missing.

    Each batch is spread over a mesh of `devices` (one, unless given) and given its `references`; the
    loss is that of the whole batch, so that their number changes nothing but rounding. Each epoch ends
    with a checkpoint, and SIGTERM writes one at once and then exits. Batches depend on the seed and the
    step alone, so 2 + 2 epochs equal 4 bit for bit on one machine, but for cycles, which 4 have longer.
    With early stopping the variables are those of the epoch that is best under PGD.

    Raises ValueError for knobs out of range, for a checkpoint that is damaged or not this net's, and at
    the end of an epoch in which a loss or a parameter was NaN or infinite, which is not saved.
    """
    check(knobs, defense)
    rows = len(dataset.train.labels)
    per_epoch = -(-rows // knobs.batch_size)
    rate = _rate(knobs, per_epoch)
    optimiser = (
        optax.adam(rate) if knobs.optimizer == "adam" else optax.sgd(rate, momentum=0.9, nesterov=True)
    )
    if knobs.weight_decay:
        optimiser = optax.chain(optax.add_decayed_weights(knobs.weight_decay), optimiser)
    shape = jax.ShapeDtypeStruct((2, *dataset.train.images.shape[1:]), jnp.float32)
    devices = devices or mesh.make(jax.local_devices()[:1])
    everywhere, spread = mesh.whole(devices), mesh.batch(devices)

    @functools.partial(jax.jit, out_shardings=everywhere)
    def fresh(images):
        variables = defense.init(jax.random.key(knobs.seed), images)
        best = Best(jnp.full((), -1.0), jax.tree.map(jnp.copy, variables))
        return State(
            variables,
            optimiser.init(_parameters(variables)),
            jnp.zeros((), jnp.int32),
            best if knobs.stopping_eps else None,
        )

    like = jax.eval_shape(fresh, shape)
    if not jax.tree.leaves(like.variables):
        return like.variables  # nothing to train

    with Checkpoints(folder) as checkpoints:
        restored = checkpoints.restore(_placed(like, everywhere))
        state = restored or fresh(_examples(defense, dataset))
        if restored and not _finite(restored):
            raise ValueError(
                f"the latest of {checkpoints.folder} holds NaN or infinite numbers: remove it"
            )
        done, total = int(state.step), knobs.epochs * per_epoch
        if done > total:
            raise ValueError(
                f"{folder} is trained for {done / per_epoch:g} epochs, the recipe asks {knobs.epochs}: "
                "use another --workdir"
            )
        if done == total:
            return _kept(state)
        function = _step(defense, optimiser, knobs, references)
        step = jax.jit(function, donate_argnums=(0, 1), out_shardings=everywhere)
        failed = jax.device_put(np.int32(NEVER), everywhere)
        own = jax.device_put(tuple(map(np.asarray, dataset.train)), everywhere)
        besides = None
        if references:
            split = references.split
            arrays = own if split is dataset.train else jax.device_put(tuple(split), everywhere)
            besides = *arrays, references.rows
        order = np.zeros(0, np.int64)
        with progress.bar("training", total, done) as advance, _Stop() as stop:
            for number in range(done, total):
                epoch, place = divmod(number, per_epoch)
                if place == 0 or number == done:
                    order = np.random.default_rng([knobs.seed, epoch]).permutation(rows)
                chosen = order[place * knobs.batch_size :][: knobs.batch_size]
                size = knobs.batch_size + -knobs.batch_size % devices.size
                batch = np.resize(chosen, size), np.arange(size) < len(chosen)
                state, failed, loss = step(state, failed, own, besides, *jax.device_put(batch, spread))
                advance(1)
                ends, leaves = place + 1 == per_epoch, stop.asked
                if ends or leaves:
                    _check_finite(int(failed), state, epoch, per_epoch, checkpoints.folder)
                if ends:
                    told = f"epoch {epoch + 1}: last loss {float(loss):.4f}"
                    if defense.logits:
                        judged = defense.logits, state.variables, dataset.valid
                        told += f", validation accuracy {validation.accuracy(*judged):.4f}"
                        if state.best:
                            robust = validation.robust_accuracy(*judged, knobs.stopping_eps)
                            told += f", {robust:.4f} under PGD"
                            state = _kept_best(state, robust)
                    checkpoints.save(state)
                    progress.say(told)
                if leaves:
                    checkpoints.save(state)
                    checkpoints.close()
                    raise SystemExit(143)
        return _kept(state)


def check(knobs: config.Optim, defense: Defense) -> None:
    """Raises ValueError for knobs out of range, and for early stopping of what has no classes."""
    if knobs.stopping_eps and defense.logits is None:
        raise ValueError(
            f"optim.stopping_eps={knobs.stopping_eps}: this defense has no output that classifies"
        )
    if knobs.weight_decay < 0:
        raise ValueError(f"optim.weight_decay={knobs.weight_decay}: it must not be below 0")
    if knobs.cycles < 0 or knobs.stopping_eps < 0:
        raise ValueError(
            f"optim.cycles={knobs.cycles}, stopping_eps={knobs.stopping_eps}: they must not be below 0"
        )
    if knobs.cycles and knobs.drops:
        raise ValueError(f"optim.cycles={knobs.cycles} with drops={knobs.drops}: give one of them")
    if not (knobs.peak_lr > 0 and knobs.batch_size > 0 and knobs.epochs >= 0):
        raise ValueError(
            f"optim.peak_lr={knobs.peak_lr}, batch_size={knobs.batch_size}, epochs={knobs.epochs}: "
            "the first two must be above 0, epochs not below"
        )


def _rate(knobs: config.Optim, per_epoch: int) -> optax.Schedule:
    """The learning rate of each step."""
    if not knobs.cycles:
        drops = {epoch * per_epoch: 0.1 for epoch in knobs.drops}
        return optax.piecewise_constant_schedule(knobs.peak_lr, drops)
    half = max(1, round(knobs.epochs * per_epoch / knobs.cycles / 2))
    rise, fall = (
        optax.linear_schedule(*ends, half) for ends in ((0.0, knobs.peak_lr), (knobs.peak_lr, 0.0))
    )
    turns = [half * i for i in range(1, 2 * knobs.cycles)]
    return optax.join_schedules([rise, fall] * knobs.cycles, turns)


def _step(
    defense: Defense,
    optimiser: optax.GradientTransformation,
    knobs: config.Optim,
    references: References | None,
):
    """One step; the last batch of an epoch is masked. Parameters descend, statistics are replaced.

    It is given the number of the first step whose loss was not finite, NEVER before, and returns it.
    """

    def without(variables, key, batch):
        return defense.loss(variables, key, batch), {}

    learn = defense.learn or without

    def taken(images, rows, key, change):
        x = images[rows]
        x = x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x
        if change == "none":
            return x, key
        key, own = jax.random.split(key)
        return augment.augment(own, x, affine=change == "affine"), key

    def step(state, failed, own, besides, chosen, mask):
        images, labels = own
        key = jax.random.fold_in(jax.random.key(knobs.seed), state.step)
        x, key = taken(images, chosen, key, knobs.augment)
        others = None
        if references:
            images, classes, rows = besides
            key, draw = jax.random.split(key)
            rows = rows(draw, chosen)
            found, key = taken(
                images, rows.reshape(-1), key, knobs.augment if references.augment else "none"
            )
            others = Others(found.reshape(*rows.shape, *x.shape[1:]), classes[rows])

        def total(parameters):
            batch = Batch(x, x, labels[chosen], mask, others, state.step)
            loss, statistics = learn({**state.variables, **parameters}, key, batch)
            return jnp.sum(jnp.where(mask, loss, 0.0)) / jnp.sum(mask, dtype=loss.dtype), statistics

        parameters: Any = _parameters(state.variables)
        (loss, statistics), gradient = jax.value_and_grad(total, has_aux=True)(parameters)
        updates, carried = optimiser.update(gradient, state.optimiser, parameters)
        parameters = optax.apply_updates(parameters, updates)
        variables = {**state.variables, **parameters, **statistics}
        failed = jnp.minimum(failed, jnp.where(jnp.isfinite(loss), NEVER, state.step))
        return State(variables, carried, state.step + 1, state.best), failed, loss

    return step


def _check_finite(failed: int, state: State, epoch: int, per_epoch: int, folder: Path) -> None:
    """Raises ValueError if a loss was not, since `failed`, or parameters or what moves them are not.

    It is asked before anything is saved, and not after each step, which would wait for the device.
    """
    what = f"the loss of epoch {failed // per_epoch + 1}, step {failed % per_epoch + 1},"
    if failed == NEVER:
        if _finite(state):
            return
        what = f"a parameter, a statistic or what the optimizer holds after epoch {epoch + 1}"
    raise ValueError(
        f"{what} is NaN or infinite: lower optim.peak_lr or mend the loss; checkpoints from "
        f"before are kept in {folder}"
    )


@jax.jit
def _finite(tree: Any) -> jax.Array:
    """Whether no number in it is NaN or infinite."""
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _parameters(variables: Any) -> Any:
    """All variables but statistics."""
    return {name: value for name, value in variables.items() if name != STATISTICS}


def _examples(defense: Defense, dataset: data.Dataset) -> Any:
    """Images to initialise with."""
    return (defense.examples or (lambda split: split.floats(0, 2)))(dataset.train)


def _kept_best(state: State, accuracy: float) -> State:
    """With the present variables for the best, if they are; the later among equals."""
    if state.best is None or accuracy < float(state.best.accuracy):
        return state
    copy = jax.tree.map(jnp.copy, state.variables)  # the next step donates them
    return state._replace(best=Best(jnp.full_like(state.best.accuracy, accuracy), copy))


def _kept(state: State) -> Any:
    """The variables that training ends with, from all devices to the first."""
    kept = state.best.variables if state.best else state.variables
    return jax.tree.map(jnp.asarray, jax.device_get(kept))


def _placed(shapes: Any, sharding: NamedSharding) -> Any:
    """Shapes of arrays that are to lie so."""

    def placed(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(placed, shapes)


class _Stop:
    """Notes SIGTERM, so that the loop can save before it ends."""

    asked = False

    def __enter__(self):
        self.before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_):
        signal.signal(signal.SIGTERM, self.before)

    def _ask(self, *_):
        self.asked = True
