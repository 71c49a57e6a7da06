"""First calls of the library on the device, and its answers there against those of the CPU.

Searches are compared with NumPy in float64; votes, attacks and certificates with the same calls on the
CPU's backend, in the same process. A row is `done` if all holds that it counts, else `wrong`.
"""

import functools
import itertools
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from machine import product

from knn_jax import attacks, certificates, classifiers, neighbors
from stages.ledger import Figures
from stages.searched import SEARCHES
from stages.stage import TRY, Row, Stage

IMAGES = 16  # that are attacked
EPS = 0.1
STEPS = 5  # of pgd
CLOSE = 1e-5  # relative: of the norms told, and of radii that are one above another
RADII = 1e-3  # relative to the largest: how far those of the CPU may be
ALIKE = 0.1  # mean norms of an attack may differ by so much, relatively: it follows its own roundings
TRIED = ("ties", "only one label", "not numbers", "small bank", "gradients", "over all devices")
NEAR = 0.15  # share of images at the boundary that the CPU may decide otherwise


def rows(scale: float) -> Sequence[Row]:
    """First calls in a process that has compiled nothing, then the comparisons."""
    few = max(12_000, int(60_000 * scale)), max(32, int(1000 * scale))
    firsts: dict[str, Callable[[], object]] = {
        "matmul and top_k, 300 x 64": _plain,
        "search, 300 x 64, k 5": functools.partial(_gaussian, 300, 64, 100, 5),
        f"search, {few[0]} x 128, k 75": functools.partial(_gaussian, few[0], 128, few[1], 75),
        "predict, digits": lambda: _digits()[0].predict(_digits()[1]),
        "pgd, 5 steps, digits": _pgd,
        "minimum_norm, digits": _minimum_norm,
    }
    first = [Row(f"first call: {name}", functools.partial(_first, run)) for name, run in firsts.items()]
    kinds = list(SEARCHES) if scale >= TRY else TRIED
    searched = [Row(f"search: {name}", SEARCHES[name]) for name in kinds]
    others = {
        "votes": _votes,
        "pgd": _pgd_holds,
        "minimum_norm": _minimum_norm_holds,
        "certificates": _certificates_hold,
        "exact": _exact_holds,
    }
    equal = [Row(f"equal: {name}", run) for name, run in others.items()]
    return [*first, *equal[:-1], *searched, *(equal[-1:] if scale >= TRY else ())]


STAGE = Stage("checks", 120.0, rows, ("first_s", "first_cpu_s", "again_s", "wrong", "error"))


def _first(run: Callable[[], object]) -> Figures:
    """The wall and processor seconds of a first call, and the wall seconds of the next."""
    start, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(run())
    first = time.perf_counter() - start, time.process_time() - cpu
    start = time.perf_counter()
    jax.block_until_ready(run())
    return {"first_s": first[0], "first_cpu_s": first[1], "again_s": time.perf_counter() - start}


def _plain():
    query, bank = jnp.ones((100, 64)), jnp.ones((300, 64))
    return jax.jit(lambda q, b: jax.lax.top_k(product(q, b.T, "float32"), 5))(query, bank)


def _gaussian(rows, dim, queries, k):
    random = np.random.default_rng(0)
    query, bank = (random.standard_normal((n, dim), np.float32) for n in (queries, rows))
    return neighbors.search(jnp.asarray(query), jnp.asarray(bank), k)


@functools.lru_cache(maxsize=4)
def _digits(k: int = 5, cpu: bool = False):
    """A k-NN of the pixels of 300 digits, and others with their labels, on the device or the CPU."""
    from sklearn.datasets import load_digits

    with jax.default_device(jax.devices("cpu")[0] if cpu else None):
        pixels, target = load_digits(return_X_y=True)
        images = jnp.asarray(np.reshape(pixels, (-1, 8, 8, 1)) / 16, jnp.float32)
        labels = jnp.asarray(target, jnp.int32)
        model = classifiers.knn(None, images[:300], labels[:300], k=k)
        return model, images[300 : 300 + IMAGES], labels[300 : 300 + IMAGES]


def _both(function: Callable[[bool], object]) -> list:
    """What a function of whether to be on the CPU gives on the device and there.

    Where the CPU is the device it is asked once, and only what is required of one answer is checked.
    """
    if jax.default_backend() == "cpu":
        return [jax.tree.map(np.asarray, function(False))] * 2
    found = []
    for cpu in (False, True):
        with jax.default_device(jax.devices("cpu")[0] if cpu else None):
            found.append(jax.tree.map(np.asarray, function(cpu)))
    return found


def _told(wrong: int, error: float, **figures: float) -> Figures:
    return {"state": "wrong" if wrong else "done", "wrong": wrong, "error": error, **figures}


def _votes() -> Figures:
    one, other = _both(lambda cpu: _digits(cpu=cpu)[0].votes(_digits(cpu=cpu)[1]))
    return _told(int(np.sum(one != other)), 0.0)


def _pgd(cpu: bool = False):
    model, x, y = _digits(cpu=cpu)
    return attacks.pgd(jax.random.key(0), model, x, y, norm="linf", eps=EPS, steps=STEPS)


def _minimum_norm(cpu: bool = False):
    model, x, y = _digits(cpu=cpu)
    return attacks.minimum_norm(jax.random.key(0), model, x, y)


def _pgd_holds() -> Figures:
    """In its ball and its box, and what it fooled is judged likewise on the CPU."""
    ours, theirs = _both(_pgd)
    x = np.asarray(_digits()[1])
    outside = np.abs(ours.image - x).max() > EPS * (1 + CLOSE) or ours.image.min() < 0
    outside |= ours.image.max() > 1
    apart = _judged_otherwise(ours) + abs(int(ours.success.sum()) - int(theirs.success.sum()))
    wrong = int(outside) + int(apart > NEAR * IMAGES)
    return _told(wrong, 0.0, otherwise=apart, success=float(ours.success.mean()))


def _minimum_norm_holds() -> Figures:
    """The norms told are those of the images, no certificate is above them, the CPU's are alike."""
    model, x, y = _digits()
    ours, theirs = _both(_minimum_norm)
    length = np.linalg.norm((ours.image - np.asarray(x)).astype(np.float64).reshape(IMAGES, -1), axis=1)
    found = ours.success
    error = float(np.abs(ours.norm - length)[found].max() / length[found].max())
    above = int(np.sum(np.asarray(certificates.margin(model, x, y)) > ours.norm))
    mean = float(ours.norm[found].mean()), float(theirs.norm[theirs.success].mean())
    unlike = abs(mean[0] / mean[1] - 1) > ALIKE or bool((found != theirs.success).any())
    otherwise = _judged_otherwise(ours)
    wrong = above + int(unlike) + int(error > CLOSE) + int(otherwise > NEAR * IMAGES)
    return _told(wrong, error, otherwise=otherwise, mean_norm=mean[0], mean_norm_cpu=mean[1])


def _judged_otherwise(found) -> int:
    """How many images the CPU's classifier decides otherwise than the attack says."""
    with jax.default_device(jax.devices("cpu")[0]):
        model, _, y = _digits(cpu=True)
        decided = np.asarray(model.predict(jnp.asarray(found.image))) != np.asarray(y)
    return int(np.sum(decided != found.success))


def _certificates_hold() -> Figures:
    """1-NN: margin <= voronoi <= attack, and both radii as on the CPU."""

    def radii(cpu):
        model, x, y = _digits(1, cpu)
        return certificates.margin(model, x, y), certificates.voronoi(model, x, y)

    ours, theirs = _both(radii)
    return _chain([*ours, _attacked()], [*theirs])


def _exact_holds() -> Figures:
    """1-NN: voronoi <= the exact radius <= attack, and the exact one as on the CPU."""

    def radii(cpu):
        model, x, y = _digits(1, cpu)
        return certificates.voronoi(model, x, y), certificates.exact(model, x, y).lower

    ours, theirs = _both(radii)
    return _chain([*ours, _attacked()], [*theirs])


@functools.cache
def _attacked() -> np.ndarray:
    """The norms of an attack on the 1-NN."""
    return np.asarray(attacks.minimum_norm(jax.random.key(0), *_digits(1), steps=20, starts=2).norm)


def _chain(ours: list[np.ndarray], theirs: list[np.ndarray]) -> Figures:
    """Each is at most the next, and the first ones are those of the CPU."""
    above = [np.sum(less > more * (1 + CLOSE)) for less, more in itertools.pairwise(ours)]
    largest = max(float(np.max(theirs)), 1e-9)
    error = (
        max(float(np.abs(one - other).max()) for one, other in zip(ours, theirs, strict=False))
        / largest
    )
    return _told(int(sum(above)) + int(error > RADII), error)
