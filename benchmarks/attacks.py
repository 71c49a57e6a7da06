"""Attacks beside what they are compared to, in one run: ratios that mean something on a shared machine.

    python benchmarks/attacks.py ask
    python benchmarks/attacks.py minimum-norm --path mnist.npz --weights mnist_basic_weights.npz

Compilation stands apart; `--out FILE.json` keeps all figures.
"""

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import lax

from knn_jax import attacks, classifiers, config, data, nets
from knn_jax.workdir import whole


def timed(function: Callable, *arguments: Any) -> tuple[Any, float, float]:
    """What it returns, the seconds of a run, and those that its compilation took."""
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compiling = time.perf_counter() - start
    jax.block_until_ready(compiled(*arguments))
    start = time.perf_counter()
    found = jax.block_until_ready(compiled(*arguments))
    return found, time.perf_counter() - start, compiling


def ask(images: int = 1000, rows: int = 20_000, steps: int = 20, out: str = "") -> None:
    """Paper 4's attack on conv3 and conv4 of its VGG16, against as many passes of the bare network.

    On random images and weights: what they show does not change the time.
    """
    net = nets.build(config.Net(name="cifar10_vgg"), 10)
    draw = jax.random.uniform(jax.random.key(0), (rows + images, 32, 32, 3))
    labels = jnp.arange(rows + images) % 10
    x, y = draw[rows:], labels[rows:]
    variables = net.init(jax.random.key(1), x[:1])
    features = nets.features(net, variables, ("conv3", "conv4"), x[:1].shape)
    bank = classifiers.knn(features, draw[:rows], labels[:rows], k=5, metric="cosine")
    size = min(images, 128)  # the attack takes as many at once

    def bare(variables, x, y):
        def loss(x, y):
            logits = net.apply(variables, x)[0]
            return -jnp.sum(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))

        def some(part):
            x, y = part
            return lax.fori_loop(0, steps, lambda _, z: z + 1e-3 * jnp.sign(jax.grad(loss)(z, y)), x)

        count = len(x) // size * size
        return lax.map(some, (x[:count].reshape(-1, size, *x.shape[1:]), y[:count].reshape(-1, size)))

    _, passes, _ = timed(bare, variables, x, y)
    passes *= len(x) / (len(x) // size * size)
    key = jax.random.key(2)
    _, attack, compiling = timed(
        lambda key, bank, x, y: attacks.ask(key, bank, x, y, eps=8 / 255, steps=steps), key, bank, x, y
    )
    times = {"attack_s": attack, "bare_s": passes, "ratio": attack / passes, "compile_s": compiling}
    _tell({"what": "ask", "images": images, "rows": rows, "steps": steps, **times}, out)


def minimum_norm(
    path: str = "mnist",
    weights: str = "mnist_basic_weights.npz",
    images: int = 100,
    starts: int = 4,
    out: str = "",
) -> None:
    """Ours against the later attack of paper 1's authors at its own settings, and what they find.

    On paper 1's network with the given weights and the first images that are classified correctly.
    """
    dataset = data.load(config.Data(name=path))
    net = nets.build(config.Net(name="mnist"), 10)
    variables = nets.load_weights(weights, net)
    train, test = dataset.train, dataset.test
    features = nets.features(net, variables, ("relu3",), (1, 28, 28, 1))
    rows = len(train.labels)
    model = classifiers.knn(features, jnp.asarray(train.floats(0, rows)), jnp.asarray(train.labels))
    some = 2 * images
    x, y = jnp.asarray(test.floats(0, some)), jnp.asarray(test.labels[:some])
    right = jnp.flatnonzero(model.margin(x, y) > 0)[:images]
    x, y, key = x[right], y[right], jax.random.key(0)

    def ours(key, model, x, y):
        return attacks.minimum_norm(key, model, x, y, steps=60, starts=starts)

    found: dict[str, Any] = {"what": "minimum_norm", "images": images, "starts": starts}
    norms = {}
    for name, attack in (("minimum_norm", ours), ("hinged", attacks.hinged)):
        start = time.perf_counter()
        compiled = jax.jit(attack).lower(key, model, x, y).compile()
        found[f"{name}_compile_s"] = time.perf_counter() - start
        start = time.perf_counter()
        norms[name] = np.asarray(compiled(key, model, x, y).norm)
        found[f"{name}_s"] = time.perf_counter() - start
        found[f"{name}_mean"] = float(norms[name].mean())
    found["speedup"] = found["hinged_s"] / found["minimum_norm_s"]
    found["not_above"] = float(np.mean(norms["minimum_norm"] <= norms["hinged"]))
    _tell(found, out)


def _tell(found: dict[str, Any], out: str) -> None:
    """Prints the figures, and writes them if asked to."""
    device = jax.devices()[0].device_kind
    hardware = {"device": device, "cpu_cores": os.cpu_count(), "machine": platform.machine()}
    text = json.dumps(found | {"hardware": hardware, "jax": jax.__version__}, indent=2)
    print(text)
    if out:
        with whole(Path(out)) as scratch:
            scratch.write_text(text + "\n")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"ask": ask, "minimum-norm": minimum_norm})
