"""Trains a representation: resumable at any step, the same bits whether interrupted or not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import PyTree

from knn_jax import data, mesh
from knn_jax.data import augment
from knn_jax.display import progress
from knn_jax.nets import STATISTICS
from knn_jax.training import early_stopping
from knn_jax.training.checkpoints import Best, Checkpoints, State
from knn_jax.training.objective import Batch, Objective, References
from knn_jax.training.optim import Optim
from knn_jax.training.references import ReferenceRows
from knn_jax.training.stop import Stop
from knn_jax.workdir import Place

NEVER = np.iinfo(np.int32).max  # no step has this number


def train(
    objective: Objective,
    dataset: data.Dataset,
    optim: Optim,
    folder: Place,
    devices: Mesh | None = None,
    references: ReferenceRows | None = None,
) -> PyTree:
    """The trained variables: read from the checkpoint in `folder` and trained for what is missing.

    Each batch is spread over a mesh of `devices` (one, unless given), of one process or of several, and
    given its `references`; the loss is that of the whole batch, so that their number changes nothing
    but rounding. Images stay on the host until their step, but for those that references are drawn
    from. The last epoch ends with a checkpoint, and so does any other if the latest is older than
    `checkpoints.EVERY`. SIGTERM, to any of the processes, writes one and then ends them all with exit
    code 143. Batches depend on the seed and the step alone, so 2 + 2 epochs equal 4 bit for bit on one
    machine, but for cycles, which 4 have longer. With early stopping the variables are those of the
    epoch that is best under PGD.

    Raises ValueError for early stopping of what has no classes, for a checkpoint that is damaged or not
    this network's, and at the end of an epoch in which a loss or a parameter was NaN or infinite, which
    is not saved.
    """
    check(optim, objective)
    rows = len(dataset.train.labels)
    per_epoch = -(-rows // optim.batch_size)
    optimiser = optim.transformation(per_epoch)
    shape = jax.ShapeDtypeStruct((2, *dataset.train.images.shape[1:]), jnp.float32)
    devices = devices or mesh.make(jax.local_devices()[:1])
    everywhere, spread = mesh.whole(devices), mesh.batch(devices)

    @functools.partial(jax.jit, out_shardings=everywhere)
    def fresh(images):
        variables = objective.init(jax.random.key(optim.seed), images)
        best = Best(jnp.full((), -1.0), jax.tree.map(jnp.copy, variables))
        return State(
            variables,
            optimiser.init(_parameters(variables)),
            jnp.zeros((), jnp.int32),
            best if optim.stopping_eps else None,
        )

    like = jax.eval_shape(fresh, shape)
    if not jax.tree.leaves(like.variables):
        return like.variables  # nothing to train

    with Checkpoints(folder) as checkpoints:
        restored = checkpoints.restore(_placed(like, everywhere))
        state = restored or fresh(_examples(objective, dataset))
        if restored and not _finite(restored):
            raise ValueError(
                f"the latest of {checkpoints.place} holds NaN or infinite numbers: remove it"
            )
        done, total = int(state.step), optim.epochs * per_epoch
        if done > total:
            raise ValueError(
                f"{folder} is trained for {done / per_epoch:g} epochs, the recipe asks {optim.epochs}: "
                "use another --workdir"
            )
        if done == total:
            return _kept(state)
        function = _step(objective, optimiser, optim, references)
        step = jax.jit(function, donate_argnums=(0, 1), out_shardings=everywhere)
        put = functools.partial(mesh.placed, sharding=everywhere)
        failed = put(np.int32(NEVER))
        besides = put((references.of(), references.labels, references.rows)) if references else None
        if devices.size > 1:
            progress.say(f"batches of {optim.batch_size} images over {devices.size} devices")
        order, leaves = np.zeros(0, np.int64), False
        with progress.bar("training", total, done) as advance, Stop() as stop:
            for number in range(done, total):
                epoch, place = divmod(number, per_epoch)
                if place == 0 or number == done:
                    order = np.random.default_rng([optim.seed, epoch]).permutation(rows)
                chosen = order[place * optim.batch_size :][: optim.batch_size]
                size = optim.batch_size + -optim.batch_size % devices.size
                whole = np.resize(chosen, size), np.arange(size) < len(chosen)
                asked = np.full(devices.size, stop.asked)  # of which each process places its own
                batch = mesh.placed((*whole, asked), spread)
                images, labels = (mesh.taken(part, whole[0], spread) for part in dataset.train)
                state, failed, loss, told = step(state, failed, besides, images, labels, *batch)
                advance(1)
                ends, leaves = place + 1 == per_epoch, stop.after(told)
                if ends or leaves:
                    _check_finite(int(failed), state, epoch, per_epoch, checkpoints.place)
                if ends:
                    line = f"epoch {epoch + 1}: last loss {float(loss):.4f}"
                    if objective.logits:
                        judged = objective.logits, _here(state.variables), dataset.valid
                        line += f", validation accuracy {early_stopping.accuracy(*judged):.4f}"
                        if optim.stopping_eps:
                            robust = early_stopping.robust_accuracy(*judged, optim.stopping_eps)
                            robust = float(mesh.of_first(np.array(robust)))  # all keep the same
                            line += f", {robust:.4f} under PGD"
                            state = _kept_best(state, robust)
                    progress.say(line)
                if leaves or (ends and (number + 1 == total or checkpoints.due())):
                    checkpoints.save(state)
                if leaves:
                    break
            if leaves or any(mesh.told("asked" if stop.asked else "")):  # or since the last step
                checkpoints.close()
                raise SystemExit(143)
        return _kept(state)


def check(optim: Optim, objective: Objective) -> None:
    """Raises ValueError for early stopping of what has no classes."""
    if optim.stopping_eps and objective.logits is None:
        raise ValueError(
            f"stopping_eps={optim.stopping_eps}: this defense has no output that classifies"
        )


def _step(
    objective: Objective,
    optimiser: optax.GradientTransformation,
    optim: Optim,
    references: ReferenceRows | None,
):
    """One step; the last batch of an epoch is masked. Parameters descend, statistics are replaced.

    It is given and returns the number of the first step whose loss was not finite, NEVER before; and of
    which processes are asked to leave, whether any is.
    """

    def without(variables, key, batch):
        return objective.loss(variables, key, batch), {}

    train_loss = objective.train_loss or without

    def changed(x, key, change):
        x = x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x
        if change == "none":
            return x, key
        key, own = jax.random.split(key)
        return augment.changed(own, x, change), key

    def step(state, failed, besides, images, labels, chosen, mask, asked):
        key = jax.random.fold_in(jax.random.key(optim.seed), state.step)
        x, key = changed(images, key, optim.augment)
        beside = None
        if references:
            others, classes, rows = besides
            key, draw = jax.random.split(key)
            rows = rows(draw, chosen)
            change = optim.augment if references.augment else "none"
            found, key = changed(others[rows.reshape(-1)], key, change)
            beside = References(found.reshape(*rows.shape, *found.shape[1:]), classes[rows])

        def total(parameters):
            batch = Batch(x, x, labels, mask, beside, state.step)
            loss, statistics = train_loss({**state.variables, **parameters}, key, batch)
            return jnp.sum(jnp.where(mask, loss, 0.0)) / jnp.sum(mask, dtype=loss.dtype), statistics

        parameters: PyTree = _parameters(state.variables)
        (loss, statistics), gradient = jax.value_and_grad(total, has_aux=True)(parameters)
        updates, carried = optimiser.update(gradient, state.optimiser, parameters)
        parameters = optax.apply_updates(parameters, updates)
        variables = {**state.variables, **parameters, **statistics}
        failed = jnp.minimum(failed, jnp.where(jnp.isfinite(loss), NEVER, state.step))
        return State(variables, carried, state.step + 1, state.best), failed, loss, asked.any()

    return step


def _check_finite(failed: int, state: State, epoch: int, per_epoch: int, folder: Place) -> None:
    """Raises ValueError if a loss was not, since `failed`, or parameters or what moves them are not.

    It is asked before anything is saved, and not after each step, which would wait for the device.
    """
    what = f"the loss of epoch {failed // per_epoch + 1}, step {failed % per_epoch + 1},"
    if failed == NEVER:
        if _finite(state):
            return
        what = f"a parameter, a statistic or what the optimizer holds after epoch {epoch + 1}"
    raise ValueError(
        f"{what} is NaN or infinite: lower peak_lr or mend the loss; checkpoints from "
        f"before are kept in {folder}"
    )


@jax.jit
def _finite(tree: PyTree) -> jax.Array:
    """Whether no number in it is NaN or infinite."""
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _parameters(variables: PyTree) -> PyTree:
    """All variables but statistics."""
    return {name: value for name, value in variables.items() if name != STATISTICS}


def _examples(objective: Objective, dataset: data.Dataset) -> PyTree:
    """Images to initialise with."""
    return (objective.examples or (lambda split: split.floats(0, 2)))(dataset.train)


def _kept_best(state: State, accuracy: float) -> State:
    """With the present variables for the best, if they are; the later among equals."""
    if state.best is None or accuracy < float(state.best.accuracy):
        return state
    copy = jax.tree.map(jnp.copy, state.variables)  # the next step donates them
    now = np.full((), accuracy, state.best.accuracy.dtype)
    return state._replace(best=Best(mesh.placed(now, state.best.accuracy.sharding), copy))


def _kept(state: State) -> PyTree:
    """The variables that training ends with, from all devices to the first."""
    return _here(state.best.variables if state.best else state.variables)


def _here(variables: PyTree) -> PyTree:
    """Variables that every device has, on the first of this process."""
    return jax.tree.map(jnp.asarray, jax.device_get(variables))


def _placed(shapes: PyTree, sharding: NamedSharding) -> PyTree:
    """Shapes of arrays that are to lie so."""

    def placed(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(placed, shapes)
