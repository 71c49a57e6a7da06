"""Trains a representation: resumable at any step, the same bits whether interrupted or not."""

import functools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding

from knn_jax import augment, config, data, mesh, progress
from knn_jax.defenses import STATISTICS, Batch, Defense, Others
from knn_jax.references import References


class State(NamedTuple):
    """What training carries from step to step, and a checkpoint holds."""

    variables: Any
    optimiser: Any
    step: jax.Array


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
    step alone, so 2 + 2 epochs equal 4 bit for bit on one machine.

    Raises ValueError for knobs out of range and for a checkpoint that is damaged or not this net's.
    """
    check(knobs)
    rows = len(dataset.train.labels)
    per_epoch = -(-rows // knobs.batch_size)
    drops = {epoch * per_epoch: 0.1 for epoch in knobs.drops}
    rate = optax.piecewise_constant_schedule(knobs.peak_lr, drops)
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
        return State(variables, optimiser.init(_parameters(variables)), jnp.zeros((), jnp.int32))

    like = jax.eval_shape(fresh, shape)
    if not jax.tree.leaves(like.variables):
        return like.variables  # nothing to train

    with Checkpoints(folder) as checkpoints:
        state = checkpoints.restore(_placed(like, everywhere)) or fresh(data.typical(dataset.train))
        done, total = int(state.step), knobs.epochs * per_epoch
        if done > total:
            raise ValueError(
                f"{folder} is trained for {done / per_epoch:g} epochs, the recipe asks {knobs.epochs}: "
                "use another --workdir"
            )
        if done == total:
            return _fetched(state.variables)
        function = _step(defense, optimiser, knobs, references)
        step = jax.jit(function, donate_argnums=0, out_shardings=everywhere)
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
                state, loss = step(state, own, besides, *jax.device_put(batch, spread))
                advance(1)
                if place + 1 == per_epoch:
                    checkpoints.save(state)
                    told = f"epoch {epoch + 1}: last loss {float(loss):.4f}"
                    if defense.logits:
                        accuracy = _accuracy(defense.logits, state.variables, dataset.valid)
                        told += f", validation accuracy {accuracy:.4f}"
                    progress.say(told)
                if stop.asked:
                    checkpoints.save(state)
                    checkpoints.close()
                    raise SystemExit(143)
        return _fetched(state.variables)


def check(knobs: config.Optim) -> None:
    """Raises ValueError for knobs out of range."""
    if knobs.weight_decay < 0:
        raise ValueError(f"optim.weight_decay={knobs.weight_decay}: it must not be below 0")
    if not (knobs.peak_lr > 0 and knobs.batch_size > 0 and knobs.epochs >= 0):
        raise ValueError(
            f"optim.peak_lr={knobs.peak_lr}, batch_size={knobs.batch_size}, epochs={knobs.epochs}: "
            "the first two must be above 0, epochs not below"
        )


def _step(
    defense: Defense,
    optimiser: optax.GradientTransformation,
    knobs: config.Optim,
    references: References | None,
):
    """One step; the last batch of an epoch is masked. Parameters descend, statistics are replaced."""

    def without(variables, key, batch):
        return defense.loss(variables, key, batch), {}

    learn = defense.learn or without

    def taken(images, rows, key, change):
        x = images[rows]
        x = x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x
        if not change:
            return x, key
        key, own = jax.random.split(key)
        return augment.augment(own, x), key

    def step(state, own, besides, chosen, mask):
        images, labels = own
        key = jax.random.fold_in(jax.random.key(knobs.seed), state.step)
        x, key = taken(images, chosen, key, knobs.augment)
        others = None
        if references:
            images, classes, rows = besides
            key, draw = jax.random.split(key)
            rows = rows(draw, chosen)
            found, key = taken(images, rows.reshape(-1), key, knobs.augment and references.augment)
            others = Others(found.reshape(*rows.shape, *x.shape[1:]), classes[rows])

        def total(parameters):
            batch = Batch(x, x, labels[chosen], mask, others, state.step)
            loss, statistics = learn({**state.variables, **parameters}, key, batch)
            return jnp.sum(jnp.where(mask, loss, 0.0)) / jnp.sum(mask, dtype=loss.dtype), statistics

        parameters: Any = _parameters(state.variables)
        (loss, statistics), gradient = jax.value_and_grad(total, has_aux=True)(parameters)
        updates, carried = optimiser.update(gradient, state.optimiser, parameters)
        parameters = optax.apply_updates(parameters, updates)
        return State({**state.variables, **parameters, **statistics}, carried, state.step + 1), loss

    return step


def _parameters(variables: Any) -> Any:
    """All variables but statistics."""
    return {name: value for name, value in variables.items() if name != STATISTICS}


def _fetched(variables: Any) -> Any:
    """From all devices to the first."""
    return jax.tree.map(jnp.asarray, jax.device_get(variables))


def _placed(shapes: Any, sharding: NamedSharding) -> Any:
    """Shapes of arrays that are to lie so."""

    def placed(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(placed, shapes)


def _accuracy(logits: Callable, variables: Any, split: data.Split) -> float:
    """Of the network's own output."""
    logits = jax.jit(logits)
    right = 0
    for first in range(0, len(split.labels), 500):
        x = split.floats(first, first + 500)
        right += int(np.sum(np.argmax(logits(variables, x), 1) == split.labels[first : first + 500]))
    return right / len(split.labels)


class Checkpoints:
    """Orbax checkpoints of `State` below a folder, the latest two."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve() / "checkpoints"
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True)
        self.manager = ocp.CheckpointManager(
            self.folder, options=options, item_handlers=ocp.StandardCheckpointHandler()
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Waits until what was saved is on disk."""
        self.manager.close()

    def save(self, state: State) -> None:
        step = int(state.step)
        if step not in self.manager.all_steps():
            self.manager.save(step, args=ocp.args.StandardSave(state._asdict()))
            self.manager.wait_until_finished()  # the next step donates these arrays

    def restore(self, like: State) -> State | None:
        """The latest checkpoint, or None; ValueError for one that does not hold such a state."""
        step = self.manager.latest_step()
        if step is None:
            return None
        try:
            # Asked first: orbax that fails half-way leaves readers behind which complain later.
            if _shapes(self.manager.item_metadata(step)) != _shapes(like._asdict()):
                raise ValueError("other shapes")
            found = self.manager.restore(step, args=ocp.args.StandardRestore(like._asdict()))
        except Exception as error:  # orbax, tensorstore and json each raise their own
            raise ValueError(
                f"checkpoint {self.folder / str(step)} is damaged or of another network: remove it or "
                "use another --workdir"
            ) from error
        return State(**found)


def _shapes(tree: Any) -> dict[tuple[str, ...], tuple]:
    """Shape and type of each leaf by its path, whatever the containers are."""

    def name(key):
        return str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))))

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(map(name, path)): (tuple(a.shape), np.dtype(a.dtype)) for path, a in leaves}


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
