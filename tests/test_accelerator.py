"""The script for a machine with a GPU, at the tiniest scale: it goes on where it was interrupted."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import accelerator  # noqa: E402
from stages import searched, searching  # noqa: E402
from stages.ledger import Ledger  # noqa: E402
from stages.stage import OVER, Row, Stage, pending, work  # noqa: E402

SCALE = 1e-6
LATER = 4e9  # no row was tried since

HANGS = """
import sys, time
from pathlib import Path
from stages.ledger import Ledger
from stages.stage import Row, Stage, work

file, scale, since = Path(sys.argv[1]), 1.0, float(sys.argv[2])
rows = [Row("quick", dict), Row("hangs", lambda: time.sleep(60), 0.2), Row("after", dict)]
work(Stage("stage", 9.0, lambda scale: rows, ()), scale, Ledger(file, scale), since, 9.0)
"""


@pytest.fixture(autouse=True)
def relaxed():
    """Benchmarks promote as users do."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def few():
    """The search stage's rates, its first matmul and the first search of ours."""
    wanted = "rates", "matmul_float32", "ours"
    rows = searching.rows(SCALE)
    few = [next(row for row in rows if row.name.endswith(name)) for name in wanted]
    return dataclasses.replace(searching.STAGE, rows=lambda scale: few)


def interrupted():
    raise KeyboardInterrupt


def test_an_interrupted_stage_goes_on_with_what_it_lacks(tmp_path, few):
    first, second, third = few.rows(SCALE)
    cut = [first, dataclasses.replace(second, measure=interrupted), third]
    ledger = Ledger(tmp_path / "own.json", SCALE)
    with pytest.raises(KeyboardInterrupt):
        work(dataclasses.replace(few, rows=lambda scale: cut), SCALE, ledger, LATER, 60.0)
    kept = Ledger(tmp_path / "own.json", SCALE)
    before = dict(kept.rows("search"))
    assert [row["state"] for row in before.values()] == ["done", "running"]
    assert [row.name for row in pending(few, SCALE, kept, LATER)] == [third.name, second.name]

    work(few, SCALE, kept, LATER, 60.0)
    found = Ledger(tmp_path / "own.json", SCALE).rows("search")
    assert {row["state"] for row in found.values()} == {"done"}
    assert found[first.name] == before[first.name]
    ours, floor = found[third.name], found[second.name]
    assert ours["error"] <= searching.TOLERANCE
    assert ours["recall"] == 1.0
    assert ours["of_matmul"] == floor["ms"] / ours["ms"]
    assert not pending(few, SCALE, kept, LATER)


def test_a_row_that_hangs_costs_itself_alone(tmp_path):
    file = tmp_path / "own.json"

    def run(since):
        command = [sys.executable, "-c", HANGS, str(file), str(since)]
        return subprocess.run(command, cwd=BENCHMARKS, timeout=30).returncode

    def states():
        return {name: row["state"] for name, row in Ledger(file, 1.0).rows("stage").items()}

    assert run(LATER) == OVER
    assert states() == {"quick": "done", "hangs": "stopped"}
    assert run(1.0) == 0  # what was tried since then is not tried again
    assert states() == {"quick": "done", "hangs": "stopped", "after": "done"}


def test_without_time_nothing_is_begun(tmp_path):
    ledger = Ledger(tmp_path / "own.json", 1.0)
    stage = Stage("stage", 9.0, lambda scale: [Row("row", interrupted)], ())
    work(stage, 1.0, ledger, LATER, 0.0)
    assert not ledger.rows("stage")


@pytest.mark.parametrize(("status", "state"), [(-11, "crashed"), (OVER, "stopped")])
def test_a_process_that_ends_costs_its_row(tmp_path, monkeypatch, status, state):
    """The process is one that begins a row and ends so; the next one begins nothing at all."""
    file, begun = tmp_path / "own.json", []
    stage = Stage("stage", 9.0, lambda scale: [Row("row", dict), Row("other", dict)], ())

    def run(command, timeout):
        if not begun:
            Ledger(file, 1.0).put("stage", "row", "running")
        begun.append(timeout)
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(subprocess, "run", run)
    accelerator.drive(stage, 1.0, file, 20.0)
    rows = Ledger(file, 1.0).rows("stage")
    assert {name: row["state"] for name, row in rows.items()} == {"row": state, "other": "left out"}
    assert len(begun) == 2
    assert [row.name for row in pending(stage, 1.0, Ledger(file, 1.0), LATER)] == ["other", "row"]


def test_what_breaks_and_what_is_missing_does_not_end_the_others(tmp_path):
    def breaks():
        raise RuntimeError("out of memory")

    def lacks():
        raise ImportError("no such package")

    rows = [Row("breaks", breaks), Row("lacks", lacks), Row("row", lambda: {"state": "wrong"})]
    ledger = Ledger(tmp_path / "own.json", 1.0)
    work(Stage("stage", 9.0, lambda scale: rows, ()), 1.0, ledger, LATER, 9.0)
    assert [row["state"] for row in ledger.rows("stage").values()] == ["failed", "missing", "wrong"]


@pytest.mark.parametrize("text", ["{", '{"name": "neighbors"}', '{"name": "accelerator", "scale": 2}'])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    file = tmp_path / "own.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"own\.json"):
        Ledger(file, 1.0)
    assert file.read_text() == text


@pytest.mark.parametrize("name", ["small bank", "every row"])
def test_a_search_is_compared_with_numpy(name):
    assert searched.SEARCHES[name]()["state"] == "done"


def test_a_wrong_search_is_told():
    assert searched.compare(lambda: searched.gaussian(100), searched.linf, k=5)["state"] == "wrong"
