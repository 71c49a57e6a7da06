"""One run at a time in a folder: refused at once, and free again however a run ends."""

import contextlib
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from knn_jax.workdir import lock

ROOT = Path(lock.__file__).parents[1]
HOLDER = """
import sys, time, pathlib
from knn_jax.workdir import lock
with lock.held(pathlib.Path(sys.argv[1])) as locked:
    print(locked, flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def another(folder):
    """A process that holds the folder, until it is killed."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "True\n"
            yield process
        finally:
            process.kill()


def take(folder):
    with lock.held(folder) as locked:
        return locked


def test_a_folder_is_held_by_one_and_free_after_its_death(tmp_path):
    lock.check(tmp_path)
    assert list(tmp_path.iterdir()) == []  # asking makes nothing
    with another(tmp_path) as process:
        for ask in (lock.check, take):
            with pytest.raises(ValueError, match=f"{tmp_path} is in use by process") as error:
                ask(tmp_path)
            assert str(process.pid) in str(error.value)
            assert "\n" not in str(error.value)
    lock.check(tmp_path)  # by SIGKILL
    assert take(tmp_path)
    assert take(tmp_path)  # and again


def test_it_is_free_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), lock.held(tmp_path):
        raise RuntimeError
    assert take(tmp_path)


def test_without_locks_it_goes_on_and_says_so(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    lock.check(tmp_path)
    assert not take(tmp_path)


def test_a_folder_that_is_not_there_is_free(tmp_path):
    lock.check(tmp_path / "none")
    (tmp_path / "file").write_text("mine")
    lock.check(tmp_path / "file")
