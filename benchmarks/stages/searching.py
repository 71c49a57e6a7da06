"""Exact search of large banks beside its rivals, as shares of the bare matmul and of the bandwidth.

Banks of 1,000,000 Gaussian rows of 128 and 768 numbers with 10,000 queries, and of 10 and 100 million
rows of 128 bytes with a batch of 2,048. Bytes have few degrees of freedom, as those of BIGANN, which is
not at hand; a rival that takes no bytes is given float16, which holds them exactly. Every answer is
checked before it is timed: the distances told and those of the rows named, for a sample of the queries.
An answer that is off is `wrong` and timed all the same, for FlashLib's float32 is TensorFloat32.

A share of the matmul is the time of the bare matmul of the same shape, in the precision of the first
pass (`ours` and the rivals: float32), over the time of the search. A share of the bandwidth is the time
of reading the bank once, at the rate of a large copy in the same run, over that.

What others have published, not measured here, is in `PUBLISHED`.
"""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from answers import error, named_distances, on_device, sliced
from machine import rates
from searches import ACCELERATOR, MODES
from timing import Compiled, in_rounds

from stages.ledger import Figures
from stages.stage import TRY, Row, Stage

PUBLISHED = (
    {
        "what": "certex, 10-NN of 10 million x 128 bytes (BIGANN-10M), 2,048 at once, one H100 NVL",
        "queries_s": 176_700,
        "source": "https://pypi.org/project/certex/0.1.0/",
    },
    {
        "what": "FlashLib's flash_knn on one H200, few queries",
        "share_of_bandwidth": 0.85,
        "source": "https://flashml-org.github.io",
    },
)
SECONDS = 1.0  # of timing for each row, about; of a try a tenth
SAMPLE = 8  # queries that are checked
TOLERANCE = 1e-5  # of the distance; of rivals:
OTHERS = 1e-3
WIDEST = {
    "flashlib": 128,
    "jax": 16,
}  # the largest k that they are asked for; above, jax sorts all rows
FLOATS = ("jax",)  # which take no bytes
BANKS = (  # rows, dimensions, queries, type, ks
    (1_000_000, 128, 10_000, "float32", (100, 10, 800)),
    (10_000_000, 128, 2_048, "uint8", (10, 100)),
    (100_000_000, 128, 2_048, "uint8", (10, 100)),
    (1_000_000, 768, 10_000, "float32", (100, 10, 800)),
)
COARSE = [f"ours_{mode}" for mode in MODES[1:]]
LAST = "ours_tensorfloat32"  # measured when all else is


def rows(scale: float) -> Sequence[Row]:
    """The rates, then for each bank the matmuls, ours, and the rivals; of a try the first k alone."""
    seconds = SECONDS if scale >= TRY else SECONDS / 10
    found, last = [Row("rates", functools.partial(_rates, scale, seconds))], []
    for count, dim, queries, dtype, ks in BANKS:
        bank = max(1000, int(count * scale)), dim, max(32, int(queries * scale)), dtype
        name = f"{bank[0]}x{dim}_{dtype}_q{bank[2]}"
        for mode in MODES:
            measure = functools.partial(_matmul, bank, f"matmul_{mode}", seconds)
            found.append(Row(f"{name} matmul_{mode}", measure, limit=40.0))
        for k in ks if scale >= TRY else ks[:1]:
            for rival in ACCELERATOR:
                if rival.startswith("matmul") or k > WIDEST.get(rival, k):
                    continue
                if rival in FLOATS and dtype != "float32":
                    continue
                measure = functools.partial(_search, bank, k, rival, seconds)
                where = last if rival == LAST else found
                where.append(Row(f"{name} k{k} {rival}", measure, limit=60.0))
    return found + last


def derive(found: dict[str, Figures]) -> None:
    """Shares of the bare matmul and of the bandwidth, of all rows whose floor was measured."""
    copy = found.get("rates", {}).get("copy_gb_s")
    for figures in found.values():
        ms = figures.get("ms")
        if not isinstance(ms, float):
            continue
        floor = found.get(str(figures["floor"]), {}).get("ms")
        if isinstance(floor, float):
            figures["of_matmul"] = floor / ms
        if isinstance(copy, float) and isinstance(figures["bank_gb"], float):
            figures["of_bandwidth"] = figures["bank_gb"] / copy / (1e-3 * ms)


STAGE = Stage(
    "search",
    330.0,
    rows,
    ("queries_s", "ms", "of_matmul", "of_bandwidth", "error", "recall", "compile_s", "memory_mb"),
    derive,
)

made = functools.lru_cache(maxsize=1)(on_device)


@functools.lru_cache(maxsize=1)
def _nearest(bank: tuple[int, int, int, str], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Which queries are checked, and the distances that they must have."""
    query, rows = made(*bank)
    sample = np.unique(np.linspace(0, len(query) - 1, SAMPLE).astype(int))
    return sample, sliced(query[sample], rows, k)


def _rates(scale: float, seconds: float) -> Figures:
    small = scale < TRY
    return {**rates(512 if small else 8192, 2**20 if small else 2**30, MODES, seconds)}


def _matmul(bank: tuple[int, int, int, str], rival: str, seconds: float) -> Figures:
    run = ACCELERATOR[rival](*made(*bank), 1)
    jax.block_until_ready(run())
    return _timed(run, bank, rival.removeprefix("matmul_"), seconds)


def _search(bank: tuple[int, int, int, str], k: int, rival: str, seconds: float) -> Figures:
    query, rows = made(*bank)
    run = ACCELERATOR[rival](query, rows, k)
    found = jax.block_until_ready(run())
    sample, nearest = _nearest(bank, k)
    distance, index = (np.asarray(x.cpu() if hasattr(x, "cpu") else x)[sample] for x in found)
    del found
    chosen = np.asarray(query[sample])
    off = error(distance, index, chosen, rows, nearest)
    ours = rival.startswith("ours")
    farthest = nearest[:, -1:] * (1 + TOLERANCE)
    mode = rival.removeprefix("ours_") if rival in COARSE else "float32"
    figures = _timed(run, bank, mode, seconds)
    return figures | {
        "state": "done" if off <= (TOLERANCE if ours else OTHERS) else "wrong",
        "error": off,
        "recall": float(np.mean(named_distances(index, chosen, rows) <= farthest)),
    }


def _timed(run, bank, mode, seconds) -> Figures:
    """Times and rates of what has run once."""
    count, dim, queries, dtype = bank
    ms = 1e3 * np.asarray(in_rounds({"": run}, seconds)[""])
    figures: Figures = {
        "ms": float(np.median(ms)),
        "ms_low": float(ms.min()),
        "ms_high": float(ms.max()),
        "repeats": len(ms),
        "queries_s": 1e3 * queries / float(np.median(ms)),
        "bank_gb": 1e-9 * count * dim * np.dtype(dtype).itemsize,
        "floor": f"{count}x{dim}_{dtype}_q{queries} matmul_{mode}",
    }
    if isinstance(run, Compiled):
        figures |= {"compile_s": run.seconds, "memory_mb": run.bytes and run.bytes / 1e6}
    return figures
