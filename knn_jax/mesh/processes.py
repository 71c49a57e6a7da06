"""Several processes that do one job: how they find each other, share work, and refuse as one."""

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

HEARTBEAT = 20  # seconds until the other processes notice that one has died
STARTING = 300  # seconds in which all processes must have started
TOLD = 1000  # bytes that a process tells the others at most
# What launchers leave in the environment of each process that jax.distributed can read.
LAUNCHED = (
    "JAX_COORDINATOR_ADDRESS",
    "SLURM_STEP_NUM_TASKS",
    "OMPI_COMM_WORLD_RANK",
    "JOB_COMPLETION_INDEX",
    "TPU_ML_PLATFORM",
)
COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")  # of processes; one needs no others
T = TypeVar("T")


class Refused(ValueError):
    """What one process refuses or several disagree about: it is raised in all of them."""


def join(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Makes this process one of several that share their devices; a dead one ends the others.

    `coordinator` is HOST:PORT of process 0. What is not given is read from the environment as
    `jax.distributed.initialize` does it: on TPU pods, below SLURM and Open MPI, and in Kubernetes. It
    must come before any other use of JAX. Raises ValueError where the others are not found.
    """
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is training's: `training.stop`
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            heartbeat_timeout_seconds=HEARTBEAT,
            initialization_timeout=STARTING,
        )
    except (ValueError, RuntimeError) as error:
        told = f"{error}".strip().partition("\n")[0].rstrip(".")
        raise ValueError(
            f"the processes of this run did not come together: {told}; give --coordinator-address, "
            "--num-processes and --process-id, or --num-processes 1 to run alone"
        ) from error


def launched() -> bool:
    """Whether the environment says that this process is one of several."""
    alone = any(os.environ.get(name) == "1" for name in COUNTS)
    return not alone and any(name in os.environ for name in LAUNCHED)


def alone() -> bool:
    """Whether there is no other process."""
    return not jax.distributed.is_initialized() or jax.process_count() == 1


def first() -> bool:
    """Whether this process is the one that writes and prints for all."""
    return alone() or jax.process_index() == 0


def told(text: str) -> list[str]:
    """What each process says, in their order."""
    if alone():
        return [text]
    line = np.zeros(TOLD, np.uint8)
    said = text.encode()[:TOLD]
    line[: len(said)] = list(said)
    every = np.asarray(multihost_utils.process_allgather(line))
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in every]


def agree(what: str, text: str) -> None:
    """Raises `Refused` in every process unless `text` is the same in all."""
    every = told(text)
    for number, other in enumerate(every):
        if other != every[0]:
            raise Refused(
                f"{what} is {every[0]} in process 0 and {other} in process {number}: start the same "
                "command with the same files on every worker"
            )


def together(do: Callable[[], T]) -> T:
    """`do()` in every process; where one of them refuses, all raise that, and none goes on alone."""
    found: list[T] = []
    fault = ""
    try:
        found.append(do())
    except ValueError as error:
        if alone():
            raise
        fault = f"{error}"
    every = told(fault)
    for number, text in enumerate(every):
        if text:
            raise Refused(text if set(every) == {text} else f"process {number}: {text}")
    return found[0]


def by_first(do: Callable[[], object]) -> None:
    """`do()` in the first process, while the others wait; what it refuses, all raise."""
    together(lambda: do() if first() else None)


def of_first(array: np.ndarray) -> np.ndarray:
    """The array as the first process has it."""
    if alone():
        return array
    return np.asarray(multihost_utils.broadcast_one_to_all(array))


def divided(items: Sequence[T]) -> Sequence[T]:
    """This process's part of what all of them have to do."""
    return items if alone() else items[jax.process_index() :: jax.process_count()]
