"""A script as one of several processes: who speaks, and what is said when another one dies."""

import argparse
import contextlib
import ctypes
import os
import re
import signal
import socket
import sys
import traceback
from collections.abc import Iterator, Sequence

import jax

from knn_jax import mesh
from knn_jax.display import progress

FLAGS = (
    ("coordinator-address", str, "HOST:PORT of process 0, where several processes share the work"),
    ("num-processes", int, "How many processes share the work; by default as the launcher says"),
    ("process-id", int, "Which of them this is, from 0"),
)  # as `jax.distributed.initialize` names them
DEATH = 1  # prctl's PR_SET_PDEATHSIG
LOST = (
    "error: this process of several was ended ({how}): another one died or is out of reach, or memory "
    "ran out; what is in the workdir stays, so start the same command on every worker again"
)


def join(argv: Sequence[str]) -> None:
    """Joins the other processes, if flags or a launcher say that there are any.

    It comes before anything else that may fail in one of them alone. From then on only the first tells
    what is going on. Raises ValueError for flags that do not go together, and where the others are not
    found.
    """
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name, kind, _ in FLAGS:
        flags.add_argument(f"--{name}", type=kind)
    try:
        given, rest = flags.parse_known_args(argv[1:])
    except argparse.ArgumentError as error:
        raise ValueError(f"{error}") from error
    coordinator, count, number = (getattr(given, name.replace("-", "_")) for name, *_ in FLAGS)
    _check(coordinator, count, number)
    asked = any(value is not None for value in (coordinator, count, number))
    if count == 1 or not (asked or mesh.launched()) or not rest or {"-h", "--help"} & set(rest):
        return
    if number == 0 and coordinator:
        _check_free(coordinator)
    elif coordinator:
        progress.say(f"waiting for process 0 at {coordinator}")
    _watched()
    mesh.join(coordinator, count, number)
    progress.console.quiet = not mesh.first()
    progress.say(f"{jax.process_count()} processes with {jax.device_count()} devices")


def _check(coordinator: str | None, count: int | None, number: int | None) -> None:
    """Raises ValueError for flags that do not go together."""
    if count is not None and count < 1:
        raise ValueError(f"--num-processes {count}: give how many there are, 1 to run alone")
    if number is not None and not 0 <= number < (count or number + 1):
        raise ValueError(f"--process-id {number} of {count or 'several'} processes: they count from 0")
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise ValueError(f"--coordinator-address {coordinator}: give HOST:PORT, as 10.0.0.1:1234")


def _check_free(coordinator: str) -> None:
    """Raises ValueError for a port that another program listens at."""
    port = int(coordinator.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as JAX's service does
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            raise ValueError(f"--coordinator-address {coordinator}: {error}") from error


@contextlib.contextmanager
def refusing_as_one() -> Iterator[None]:
    """What all refuse, the first tells. What this process alone meets ends it at once, and JAX ends the
    others soon after."""
    try:
        yield
    except mesh.Refused:
        if mesh.first():
            raise
        sys.exit(2)
    except (SystemExit, KeyboardInterrupt) as leaving:
        code = leaving.code if isinstance(leaving, SystemExit) else 130
        if code in (1, 2, 130) and not mesh.alone():
            os._exit(code)  # hooks at the exit would wait for the others
        raise
    except jax.errors.JaxRuntimeError as error:
        if mesh.alone():
            raise
        print(LOST.format(how=f"{error}".partition("\n")[0]), file=sys.stderr, flush=True)
        os._exit(1)
    except Exception as error:
        if mesh.alone():
            raise
        if isinstance(error, ValueError) and not os.environ.get("KNN_JAX_TRACEBACK"):
            print(f"error: process {jax.process_index()}: {error}", file=sys.stderr, flush=True)
        else:
            traceback.print_exc()
        os._exit(2)


def _watched() -> None:
    """Goes on in a child, while this process waits for its end and has the last word about it.

    Where another process dies, JAX's runtime aborts this one from within, and nothing in it could tell.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until it is known who takes it
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        ctypes.CDLL(None).prctl(DEATH, signal.SIGKILL)  # nobody is left behind
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the child too
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0 and -code != signal.SIGTERM:
        print(LOST.format(how=signal.Signals(-code).name), file=sys.stderr)
        code = 1
    os._exit(code if code >= 0 else 128 - code)
