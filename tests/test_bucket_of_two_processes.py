"""The scripts as two processes that share a workdir in a bucket, and data there."""

import io
import json
import re
import sys

import emulator
import numpy as np
import pytest
from loopback import ROOT, Started, free_port
from some_digits import few

SMALL = (
    *("--data-path", "gs://bucket/set.npz", "--optim.epochs", "2", "--optim.batch-size", "64"),
    *("--evaluate.images", "20", "--evaluate.chunk", "5", "--evaluate.certified-chunk", "20"),
    *("--attacks.minimum-norm.steps", "2", "--attacks.minimum-norm.starts", "1"),
    *("--evaluate.norms", "l2", "--certificate", "margin"),
)
ATTACK = [sys.executable, str(ROOT / "attack.py"), str(ROOT / "configs" / "digits.py"), *SMALL]


@pytest.fixture(scope="module")
def store():
    with emulator.running() as store:
        made, packed = few(200), io.BytesIO()
        splits = {"train": made.train, "test": made.test}
        parts = {f"{name}_{k}": v for name, part in splits.items() for k, v in part._asdict().items()}
        np.savez(packed, **parts)
        store.put("set.npz", packed.getvalue())
        yield store


def two(store, folder, place):
    both = ("--coordinator-address", f"127.0.0.1:{free_port()}", "--num-processes", "2")
    commands = [[*ATTACK, "--workdir", place, *both, "--process-id", str(me)] for me in (0, 1)]
    return Started(folder, commands, STORAGE_EMULATOR_HOST=store.url, COLUMNS="120")


def report(store):
    """All of it but the command and the machine."""
    found = json.loads(store.content("run/report.json"))
    return {key: part for key, part in found.items() if key not in ("command", "hardware")}


def test_each_chunk_is_written_once_and_one_process_finds_them_all(store, tmp_path):
    with two(store, tmp_path, "gs://bucket/run") as both:
        (code, output), (other, quiet) = both.ends()
    assert (code, other) == (0, 0), output + quiet
    wrote = [path for kind, path in store.asked if kind == "POST" and "parts" in path]
    chunks = store.names("run/parts/")
    assert len(wrote) == len(chunks) > 4
    assert {"run/report.json", "run/results.csv", "run/report.html", "run/curve.png"} <= set(
        store.names()
    )
    assert "run/.lock" not in store.names()
    before = report(store)
    store.asked.clear()
    command = [*ATTACK, "--workdir", "gs://bucket/run"]
    with Started(tmp_path, [command], STORAGE_EMULATOR_HOST=store.url) as one:
        [(code, output)] = one.ends()
    assert code == 0, output
    assert report(store) == before
    assert not [path for _, path in store.asked if re.search("parts|checkpoints", path)]


def test_a_bucket_that_is_not_there_ends_both_in_one_line(store, tmp_path):
    with two(store, tmp_path, "gs://none/run") as both:
        (code, output), (other, quiet) = both.ends(200)
    assert (code, other) == (2, 2)
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "gs://none/run cannot be written: there is no bucket gs://none" in lines[0]
    assert "error: " not in quiet
