"""Training CIFAR-10's ResNet-18 on images of noise: the step by itself, and the library's own loop.

`nets.cifar_resnet18(half=True)` has its convolutions in bfloat16 and all else in float32. The step is
that of `defenses.CrossEntropy` with Nesterov's momentum, compiled by itself: its images a second are
those of a loop that waits for nothing. `training.train` is the loop that the scripts run, over one
epoch, with its compilation, its validation and its checkpoint. The rates do not depend on what the
images show, so that no data set is needed.
"""

import functools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from knn_jax import data, defenses, nets, training
from stages.ledger import Figures
from stages.stage import TRY, Row, Stage

EPOCH = 50_000
SECONDS = 4.0  # of timing for each row, about


def rows(scale: float) -> Sequence[Row]:
    """The step at two sizes of the batch and in float32, and the library's loop."""
    images = max(64, int(EPOCH * scale))
    large, small = (512, 128) if scale >= TRY else (16, 8)
    steps = (("bfloat16", large), ("bfloat16", small), ("float32", large))
    found = [
        Row(f"step {dtype}, batch {batch}", functools.partial(_step, scale, dtype, batch, images))
        for dtype, batch in steps
    ]
    whole = Row(
        f"training.train bfloat16, batch {large}", functools.partial(_loop, scale, large, images)
    )
    return [found[0], whole, *found[1:]] if scale >= TRY else [found[0], whole]


STAGE = Stage(
    "training", 110.0, rows, ("images_s", "ms", "tflops", "compile_s", "seconds", "network", "loss")
)


def _network(scale: float, half: bool) -> tuple[nets.Net, str]:
    """The ResNet-18, or in a try at a small scale a small one of the same kind."""
    if scale >= TRY:
        return nets.cifar_resnet18(half), "cifar_resnet18"
    return nets.small_resnet(half), "small_resnet"


def _noise(images: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (images, 32, 32, 3), np.uint8)
    return pixels, random.integers(0, 10, images).astype(np.int32)


def _step(scale: float, dtype: str, batch: int, images: int) -> Figures:
    net, name = _network(scale, dtype == "bfloat16")
    objective = defenses.CrossEntropy(net).objective(net.build(10))
    assert objective.train_loss is not None  # of a network that normalises by the batch
    train_loss = objective.train_loss
    optimiser = training.Optim(optimizer="sgd", peak_lr=0.01).transformation(images // batch)
    pixels, labels = (jnp.asarray(array) for array in _noise(images))

    def step(variables, carried, number, pixels, labels):
        key = jax.random.fold_in(jax.random.key(0), number)
        chosen = jax.random.randint(key, (batch,), 0, images)
        x = pixels[chosen].astype(jnp.float32) / 255
        given = training.Batch(x, x, labels[chosen], jnp.ones(batch, bool), None, number)

        def loss(parameters):
            each, statistics = train_loss({**variables, "params": parameters}, key, given)
            return each.mean(), statistics

        parameters = variables["params"]
        (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
        updates, carried = optimiser.update(gradient, carried, parameters)
        parameters = optax.apply_updates(parameters, updates)
        return {**variables, "params": parameters, **statistics}, carried, number + 1, value

    variables = jax.jit(objective.init)(jax.random.key(0), jnp.zeros((2, 32, 32, 3)))
    carried = optimiser.init(variables["params"])
    state = variables, carried, jnp.zeros((), jnp.int32)
    start = time.perf_counter()
    lowered = jax.jit(step, donate_argnums=(0, 1, 2)).lower(*state, pixels, labels)
    compiled = lowered.compile()
    compiling = time.perf_counter() - start
    cost = lowered.cost_analysis() or {}  # of the compiled one it lacks what cuDNN does
    *state, loss = jax.block_until_ready(compiled(*state, pixels, labels))
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS * min(1.0, 10 * scale):
        for _ in range(1 if scale < TRY else 20):
            *state, loss = compiled(*state, pixels, labels)
            count += 1
        jax.block_until_ready(loss)
    seconds = (time.perf_counter() - start) / count
    return {
        "state": "done" if np.isfinite(float(loss)) else "wrong",
        "images_s": batch / seconds,
        "ms": 1e3 * seconds,
        "tflops": 1e-12 * float(cost.get("flops", 0)) / seconds,
        "compile_s": compiling,
        "network": name,
        "loss": float(loss),
    }


def _loop(scale: float, batch: int, images: int) -> Figures:
    net, name = _network(scale, half=True)
    objective = defenses.CrossEntropy(net).objective(net.build(10))
    pixels, labels = _noise(images)
    split = data.Split(pixels, labels)
    few = data.Split(pixels[:1000], labels[:1000])
    optim = training.Optim(optimizer="sgd", peak_lr=0.01, batch_size=batch, epochs=1)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        training.train(objective, data.Dataset(split, few, few, 10), optim, Path(folder))
        seconds = time.perf_counter() - start
    return {"images": images, "seconds": seconds, "network": name}
