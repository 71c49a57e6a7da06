"""How long functions take that compile, or that run on a device after they have returned."""

import time
from collections.abc import Callable, Mapping
from typing import Generic, ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")
ROUNDS = 3
LONG = 20.0  # seconds: a run over this is not repeated


class Compiled(Generic[R]):
    """A function compiled for its arguments; a call runs it."""

    def __init__(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs):
        start = time.perf_counter()
        self.program = jax.jit(function).lower(*args, **kwargs).compile()
        self.seconds = time.perf_counter() - start
        self.args, self.kwargs = args, kwargs
        memory = self.program.memory_analysis()
        self.bytes = memory and memory.temp_size_in_bytes + memory.output_size_in_bytes

    def __call__(self) -> R:
        return self.program(*self.args, **self.kwargs)


def in_rounds(runs: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """The seconds of every repeat, in rounds, so that a slow spell of the machine is shared."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            if times[name] and times[name][-1] > LONG:
                continue
            time.sleep(0.1)  # the threads of the one before spin for a while, on our cores
            spent = 0.0
            while spent == 0 or spent < seconds / ROUNDS:
                start = time.perf_counter()
                jax.block_until_ready(run())
                times[name].append(time.perf_counter() - start)
                spent += times[name][-1]
    return times


def once(
    function: Callable[..., R], *arguments: object, clock: Callable[[], float] = time.perf_counter
) -> tuple[R, float, float]:
    """What it returns, the seconds of a run, and those that its compilation took.

    Of two runs the second, but for long ones, where what a first run costs besides does not count.
    """

    def run(work):
        start = clock()
        return jax.block_until_ready(work()), clock() - start

    compiled, compiling = run(lambda: jax.jit(function).lower(*arguments).compile())
    found, seconds = run(lambda: compiled(*arguments))
    if seconds < 60:
        found, seconds = run(lambda: compiled(*arguments))
    return found, seconds, compiling
