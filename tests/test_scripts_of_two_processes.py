"""The scripts as two processes on loopback: they find what one does, share it, and end together."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from loopback import ROOT, Started, free_port

from knn_jax import mesh
from knn_jax.cli import several

SMALL = (
    *("--optim.epochs", "2", "--evaluate.images", "20", "--evaluate.chunk", "5"),
    *("--evaluate.certified-chunk", "5", "--attacks.minimum-norm.steps", "2"),
    *("--attacks.minimum-norm.starts", "1", "--evaluate.norms", "l2", "--certificate", "margin"),
)


def started(folder, script, *arguments, own=((), ())):
    """A script as two processes, each with arguments of its own besides."""
    several_of = ("--coordinator-address", f"127.0.0.1:{free_port()}", "--num-processes", "2")
    start = [sys.executable, str(ROOT / script), str(ROOT / "configs" / "digits.py"), *several_of]
    commands = [[*start, "--process-id", str(me), *arguments, *own[me]] for me in (0, 1)]
    return Started(folder, commands, COLUMNS="120")


def alone(script, *arguments):
    command = [sys.executable, str(ROOT / script), str(ROOT / "configs" / "digits.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)


def report(folder):
    """All of it but times, places and the machine."""
    found = json.loads((folder / "report.json").read_text())
    for part in (*found["attacks"], *found["certificates"]):
        del part["seconds"], part["compile_seconds"]
    return {key: value for key, value in found.items() if key not in ("command", "hardware")}


def test_the_report_of_two_is_that_of_one_and_each_chunk_is_written_once(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    ended = alone("attack.py", *SMALL, "--workdir", str(one))
    assert ended.returncode == 0, ended.stderr
    two.mkdir()
    shutil.copytree(one / "checkpoints", two / "checkpoints")
    shutil.copy(one / "config.json", two)
    with started(tmp_path, "attack.py", *SMALL, "--workdir", str(two)) as both:
        first, second = both.ends()
    assert (first[0], second[0]) == (0, 0), first[1] + second[1]
    assert "2 processes" in first[1]
    assert "minimum_norm" not in second[1]
    assert report(two) == report(one)
    assert (two / "results.csv").read_bytes() == (one / "results.csv").read_bytes()
    parts = [
        sorted(path.relative_to(at / "parts") for path in at.glob("parts/*/*")) for at in (one, two)
    ]
    assert parts[0] == parts[1]


def test_sigterm_to_one_saves_the_step_that_both_leave_at(tmp_path):
    """Started again as one process, training goes on from there."""
    folder = tmp_path / "run"
    arguments = ("--workdir", str(folder), "--optim.epochs", "25")
    with started(tmp_path, "train.py", *arguments) as both:
        both.wait_for(lambda: "epoch 1:" in both.logs[0].read_text())
        both.processes[1].send_signal(signal.SIGTERM)
        ends = both.ends()
    assert [code for code, _ in ends] == [143, 143], ends
    steps = sorted(int(step.name) for step in (folder / "checkpoints").glob("[0-9]*"))
    assert steps[-1] % 11  # of a step within an epoch
    done = alone("train.py", *arguments)
    assert done.returncode == 0, done.stderr
    epochs = [line for line in done.stderr.splitlines() if line.startswith("epoch ")]
    assert epochs[0].startswith(f"epoch {steps[-1] // 11 + 1}:")
    assert len(epochs) == 25 - steps[-1] // 11


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ((("--optim.epochs", "1"), ("--optim.epochs", "2")), "the digest of the recipe is "),
        (((), ("--data-path", "none.npz")), "process 1: there is no file or folder none.npz"),
        ((("--workdir", "{}/a"), ("--workdir", "{}/b")), "process 1: workdir "),
    ],
    ids=["recipe", "data", "workdir"],
)
def test_what_one_refuses_ends_both_in_one_line_with_nothing_written(tmp_path, own, told):
    own = [tuple(word.format(tmp_path) for word in words) for words in own]
    with started(tmp_path, "attack.py", "--workdir", str(tmp_path / "run"), own=own) as both:
        (code, output), (other, quiet) = both.ends(200)
    assert (code, other) == (2, 2)
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {told}")
    assert "error: " not in quiet
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("end", "code", "last"),
    [
        ("os.abort()", 1, "error: this process of several was ended (SIGABRT)"),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            1,
            "error: this process of several was ended (SIGKILL)",
        ),
        ("os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)", 143, ""),
        ("sys.exit(7)", 7, ""),
        ("print('done', file=sys.stderr)", 0, "done"),
    ],
)
def test_a_process_that_is_ended_has_the_last_word(end, code, last):
    start = "import os, signal, sys, time\nfrom knn_jax.cli import several\nseveral._watched()\n"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", start + end],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert ended.returncode == code
    assert (ended.stderr.splitlines() or [""])[-1].startswith(last)


@pytest.mark.parametrize(
    "flags",
    [
        ("--num-processes", "0"),
        ("--num-processes", "2", "--process-id", "2"),
        ("--process-id", "-1"),
        ("--num-processes", "two"),
        ("--coordinator-address", "10.0.0.1"),
    ],
    ids=lambda flags: " ".join(flags),
)
def test_flags_that_do_not_go_together(flags):
    with pytest.raises(ValueError, match=flags[-2].removeprefix("--")):
        several.join(["attack.py", "configs/digits.py", *flags])


def test_one_of_one_is_alone(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert mesh.launched()
    several.join(["attack.py", "configs/digits.py", "--num-processes", "1"])
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert not mesh.launched()
    several.join(["attack.py", "configs/digits.py"])
    assert mesh.alone()
    assert mesh.first()
    assert mesh.divided([1, 2, 3]) == [1, 2, 3]
    assert mesh.of_first(np.arange(3)).tolist() == [0, 1, 2]
    mesh.agree("it", "the same")
    with pytest.raises(ValueError, match="no"):
        mesh.together(lambda: (_ for _ in ()).throw(ValueError("no")))
