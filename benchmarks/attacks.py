"""Attacks beside what they are compared to, in one run: ratios that mean something on a shared machine.

    python benchmarks/attacks.py ask --path cifar10.npz --workdir runs/cifar10_ask
    python benchmarks/attacks.py minimum-norm --path mnist.npz --weights mnist_basic_weights.npz
    python benchmarks/attacks.py foolbox --path mnist.npz --weights mnist_basic_weights.npz

Compilation stands apart; `--out FILE.json` keeps all figures. results/README.md says how to get
these files.
"""

import json
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tyro
from jax import lax
from jax.tree_util import Partial
from timing import once

from knn_jax import attacks, classifiers, data, nets
from knn_jax.workdir.files import whole


def ask(
    path: str = "cifar10",
    workdir: str = "",
    images: int = 1000,
    rows: int = 20_000,
    steps: int = 20,
    out: str = "",
) -> None:
    """Wang et al.'s attack on conv3 and conv4 of its VGG16, against as many passes of the bare network.

    Its weights are those that `cifar10_ask.py` trained in a workdir, or without one random: features
    then are so much alike that the search has to bound their distances twice.
    """
    dataset = _data(path)
    net = nets.cifar10_vgg().build(10)
    train, test = dataset.train, dataset.test
    x, y = _first(test, images)
    variables = net.init(jax.random.key(1), x[:1])
    if workdir:
        with ocp.CheckpointManager(Path(workdir).resolve() / "checkpoints") as held:
            found = held.restore(held.latest_step(), args=ocp.args.StandardRestore())
        variables = jax.tree.map(jnp.asarray, found["variables"])
    features = nets.features(net, variables, ("conv3", "conv4"), x[:1].shape)
    bank = classifiers.knn(features, *_first(train, rows), k=5, metric="cosine")
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

    _, passes, _ = once(bare, variables, x, y)
    passes *= len(x) / (len(x) // size * size)
    key = jax.random.key(2)
    _, attack, compiling = once(
        lambda key, bank, x, y: attacks.ask(key, bank, x, y, eps=8 / 255, steps=steps), key, bank, x, y
    )
    times = {"attack_s": attack, "bare_s": passes, "ratio": attack / passes, "compile_s": compiling}
    figures = {"workdir": workdir, "images": images, "rows": rows, "steps": steps, **times}
    _tell({"what": "ask", **figures}, out)


def minimum_norm(
    path: str = "mnist",
    weights: str = "mnist_basic_weights.npz",
    images: int = 100,
    steps: int = 60,
    starts: int = 4,
    out: str = "",
) -> None:
    """Ours against Sitawarin & Wagner's later attack at its own settings, and what they find.

    On their Basic network with the given weights and the first images that are classified correctly.
    """
    dataset = _data(path)
    net = nets.mnist_convnet().build(10)
    variables = nets.load_weights(weights, net, (1, 28, 28, 1))
    train, test = dataset.train, dataset.test
    features = nets.features(net, variables, ("relu3",), (1, 28, 28, 1))
    model = classifiers.knn(features, *_first(train, len(train.labels)))
    x, y = _first(test, 2 * images)
    right = jnp.flatnonzero(model.margin(x, y) > 0)[:images]
    x, y, key = x[right], y[right], jax.random.key(0)

    def ours(key, model, x, y):
        return attacks.minimum_norm(key, model, x, y, steps=steps, starts=starts)

    found: dict[str, Any] = {"what": "minimum_norm", "images": images}
    found |= {"steps": steps, "starts": starts}
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


def foolbox(
    path: str = "mnist",
    weights: str = "mnist_basic_weights.npz",
    images: int = 20,
    threads: int = 1,
    boundary_steps: int = 1000,
    out: str = "",
) -> None:
    """Zhao & Cho's attacks beside Foolbox's and SciPy's L-BFGS-B, on Sitawarin & Wagner's bare network.

    At the same settings, on the first images that are classified correctly: FGSM and iterated FGSM over
    the sizes of Foolbox 0.8, DeepFool, the boundary attack from one start, then ours with
    a fifth of the steps and Foolbox's with 2.5 times as many. L-BFGS is at its defaults, SciPy's at
    Foolbox 0.8's 150 iterations, in 12 rounds. Norms are means in L2 (null: one was not found),
    seconds those of the processor: other programs on the machine do not count.
    """
    from rivals import Rivals  # beside this file; tells what to install

    dataset = _data(path)
    net = nets.mnist_convnet().build(10)
    variables = nets.load_weights(weights, net, (1, 28, 28, 1))

    def logits(variables, x):
        return net.apply(variables, x)[0]

    x, y = _first(dataset.test, 2 * images)
    model = classifiers.network(Partial(logits, variables), x)
    right = jnp.flatnonzero(model.margin(x, y) > 0)[:images]
    x, y = x[right], y[right]
    pool = jnp.asarray(dataset.train.floats(0, 1000))
    starts = pool[jnp.argmax(model.predict(pool)[None] != y[:, None], 1)]
    rivals = Rivals(np.load(weights), model.logits, np.asarray(x), np.asarray(y), threads)

    clock = time.process_time

    def ours(attack: Callable) -> dict[str, Any]:
        found, seconds, compiling = once(attack, jax.random.key(0), model, x, y, clock=clock)
        return _mean(np.asarray(found.norm)) | {"s": seconds, "compile_s": compiling}

    def theirs(attack: Callable) -> dict[str, Any]:
        start = clock()
        norms = attack()
        return _mean(norms) | {"s": clock() - start}

    def walk(steps: int) -> dict[str, Any]:
        return ours(partial(attacks.boundary, steps=steps, starts=starts[:, None]))

    first = np.asarray(starts)
    rows = {
        "fgsm": (ours(attacks.fgsm), {"torch": theirs(lambda: rivals.fgsm(1000))}),
        "ifgsm": (ours(attacks.ifgsm), {"torch": theirs(lambda: rivals.ifgsm(100, 10))}),
        "deepfool": (
            ours(attacks.deepfool),
            {"torch": theirs(rivals.deepfool), "jax": theirs(rivals.deepfool_in_jax)},
        ),
        "lbfgs": (ours(attacks.lbfgs), {"scipy": theirs(lambda: rivals.lbfgs(12, 150))}),
        "boundary": (
            walk(boundary_steps),
            {"torch": theirs(lambda: rivals.boundary(boundary_steps, first))},
        ),
        "boundary, to a like norm": (
            walk(boundary_steps // 5),
            {"torch": theirs(lambda: rivals.boundary(boundary_steps * 5 // 2, first))},
        ),
    }
    table = {
        name: {"ours": own, **{k: r | {"ratio": r["s"] / own["s"]} for k, r in others.items()}}
        for name, (own, others) in rows.items()
    }
    _tell({"what": "foolbox", "images": images, "threads": threads, "attacks": table}, out)


def _data(path: str) -> data.Dataset:
    """The images at a path, or of the set of TFDS of that name."""
    made = data.at_path(path, data.Digits()) if Path(path).exists() else data.TFDS(path)
    return made.load()


def _first(split: data.Split, count: int) -> tuple[jax.Array, jax.Array]:
    """The first images of a split, and their labels."""
    return jnp.asarray(split.floats(0, count)), jnp.asarray(split.labels[:count])


def _mean(norms: np.ndarray) -> dict[str, Any]:
    """How many were found, and the mean of the norms if all were."""
    found = np.isfinite(norms)
    return {"found": int(found.sum()), "mean": float(norms.mean()) if found.all() else None}


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
    tyro.extras.subcommand_cli_from_dict({"ask": ask, "minimum-norm": minimum_norm, "foolbox": foolbox})
