"""Two real processes on loopback: they share a bank, they train together, and end together."""

import sys

import jax
import numpy as np
import pytest
import worker_two_processes as worker_script
from loopback import ROOT, Started, free_port

from knn_jax import mesh, training


def two_processes(mode, folder, seconds=300):
    """(exit code, output) of each."""
    port, worker = free_port(), str(ROOT / "tests" / "worker_two_processes.py")
    commands = [[sys.executable, worker, str(port), str(me), mode, str(folder)] for me in (0, 1)]
    environment = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    with Started(folder, commands, **environment) as both:
        return both.ends(seconds)


def test_two_processes_share_a_bank(tmp_path):
    """Each gives its own rows, not as many as the other, and both get the nearest of all."""
    for code, output in two_processes("stays", tmp_path):
        assert (code, output.splitlines()[-1:]) == (0, ["ok"]), output


def test_a_dead_process_ends_the_other(tmp_path):
    (code, output), (other, dead) = two_processes("dies", tmp_path)
    assert (other, dead.splitlines()[-1:]) == (1, ["ok"]), dead
    assert code != 0
    assert "ok" in output.splitlines(), output
    assert "found alone" not in output.splitlines()


@pytest.mark.usefixtures("trains", "quick")
def test_two_processes_train_as_one_does(tmp_path):
    """On as many devices; both write one checkpoint, and go on from it."""
    defense, few = worker_script.to_train()
    knobs = training.Optim(epochs=2, stopping_eps=0.1)
    alone = training.train(defense, few, knobs, tmp_path / "alone", mesh.make())
    for code, output in two_processes("trains", tmp_path):
        assert (code, output.splitlines()[-1:]) == (0, ["ok"]), output
    for me in (0, 1):
        with np.load(tmp_path / f"{me}.npz") as found:
            for name, leaf in enumerate(jax.tree.leaves(alone)):
                np.testing.assert_allclose(found[str(name)], leaf, rtol=1e-4, atol=1e-6)
