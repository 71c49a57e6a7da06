"""What is computed chunk by chunk is kept, found again, and mistaken for nothing else."""

import dataclasses

import jax
import numpy as np
import pytest
import stubs

from knn_jax import classifiers, data
from knn_jax.evaluation import attacked, certified, resumable
from knn_jax.evaluation.attacked import Run

pytestmark = pytest.mark.usefixtures("quick")
SHIFT = Run("shift", stubs.Shift(), "l2")


@pytest.fixture(scope="module")
def system():
    return stubs.system()


@pytest.fixture
def asked(monkeypatch):
    """The first images of the chunks that are computed, as they are asked for."""
    firsts, floats = [], data.Split.floats

    def note(split, first, last):
        firsts.append(first)
        return floats(split, first, last)

    monkeypatch.setattr(data.Split, "floats", note)
    return firsts


def evaluating(**knobs):
    recipe = stubs.recipe()
    return recipe.but(evaluate=dataclasses.replace(recipe.evaluate, **knobs))


def attack(folder, system, run=SHIFT, *, compute=True, **knobs):
    return attacked.attack(evaluating(**knobs), system, run, folder, compute=compute)


def equal(one, other, count=None):
    """Results with the same arrays for the first `count` images."""
    assert set(one.arrays) == set(other.arrays)
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array[:count], other.arrays[name][:count], err_msg=name)


def test_a_killed_run_goes_on_where_it_was(tmp_path, system, asked, monkeypatch):
    whole = attack(tmp_path / "whole", system)
    assert asked == [0, 4, 8]
    save = resumable.np.savez

    def killed(stream, **arrays):
        if len(arrays["norm"]) < 4:  # the last chunk, of 2
            stream.write(b"half a file")
            raise KeyboardInterrupt
        save(stream, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(resumable.np, "savez", killed)
        with pytest.raises(KeyboardInterrupt):
            attack(tmp_path / "cut", system)
    assert not list((tmp_path / "cut").rglob(".*.scratch"))
    asked.clear()
    resumed = attack(tmp_path / "cut", system)
    assert asked == [8]
    equal(resumed, whole)


def flipped(content):
    """One bit of the first array."""
    place = content.index(b"\x93NUMPY") + 128
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("harm", [lambda _: b"", lambda content: content[:-9], flipped])
def test_a_damaged_chunk_is_told_and_computed_anew(tmp_path, system, asked, capsys, harm):
    whole = attack(tmp_path, system)
    (file,) = tmp_path.glob("parts/*/000004_4.npz")
    file.write_bytes(harm(file.read_bytes()))
    asked.clear()
    assert attack(tmp_path, system, compute=False) is None
    assert str(file) in capsys.readouterr().err.replace("\n", "")
    equal(attack(tmp_path, system), whole)
    assert asked == [4]
    equal(attack(tmp_path, system), whole)
    assert asked == [4]


def test_a_chunk_of_another_result_or_with_other_arrays_is_computed_anew(tmp_path, system, asked):
    longer = Run("shift", stubs.Shift(steps=5), "l2")
    whole, other = attack(tmp_path, system), attack(tmp_path, system, longer)
    assert (whole.arrays["gradients"] != other.arrays["gradients"]).all()
    one, two = tmp_path.glob("parts/*/000004_4.npz")
    mine, foreign = one.read_bytes(), two.read_bytes()
    with np.load(one) as found:
        arrays = dict(found)
    del arrays["success"]
    for content in (foreign, None, mine):
        if content is None:
            np.savez(one, **arrays)
        else:
            one.write_bytes(content)
        asked.clear()
        for results, run in ((whole, SHIFT), (other, longer)):
            equal(attack(tmp_path, system, run), results)
        assert asked == ([] if content == mine else [4])


@pytest.mark.parametrize("devices", [1, 3])
def test_chunks_are_the_same_on_any_number_of_devices(tmp_path, system, asked, monkeypatch, devices):
    whole = attack(tmp_path / "four", system)
    first = jax.local_devices()[:devices]
    monkeypatch.setattr(resumable.jax, "local_devices", lambda: first)
    equal(attack(tmp_path / "fewer", system), whole)
    assert asked == [0, 4, 8] * 2


def test_a_chunk_says_in_which_seconds_it_was_computed(tmp_path, system):
    first = attack(tmp_path, system)
    assert first.seconds > 0
    assert first.compile_seconds > 0
    again = attack(tmp_path, system, compute=False)
    assert (again.seconds, again.compile_seconds) == (first.seconds, first.compile_seconds)


def test_what_other_code_computed_is_not_found(tmp_path, system, asked, monkeypatch):
    attack(tmp_path, system)
    monkeypatch.setattr(resumable, "version", lambda *classes: "another")
    attack(tmp_path, system)
    assert asked == [0, 4, 8] * 2


def test_the_code_is_that_of_the_attack_the_classifier_and_the_source(tmp_path, system, monkeypatch):
    seen = []
    monkeypatch.setattr(resumable, "version", lambda *classes: seen.append(set(classes)) or "")
    attack(tmp_path, system)
    assert {stubs.Shift, classifiers.Network} <= seen[0]
    certified.certify(evaluating(), system, "tenth", stubs.Tenth(), tmp_path)
    assert {stubs.Tenth, classifiers.Network} <= seen[1]
    assert stubs.Shift not in seen[1]


def test_more_images_keep_the_full_chunks(tmp_path, system, asked):
    few = attack(tmp_path, system, images=8)
    asked.clear()
    more = attack(tmp_path, system, images=11)
    assert asked == [8]
    equal(few, more, 8)
    asked.clear()
    equal(attack(tmp_path, system, images=8), few)
    assert asked == []


def test_a_partial_chunk_is_completed_to_what_a_full_one_is(tmp_path, system, asked):
    attack(tmp_path / "grown", system, images=6)
    grown = attack(tmp_path / "grown", system, images=8)
    equal(grown, attack(tmp_path / "at once", system, images=8))


QUESTIONS = [
    (stubs.Shift(steps=5), {}),
    (stubs.Shift(far=0.25), {}),
    (stubs.Shift(), {"seed": 1}),
    (stubs.Shift(), {"chunk": 5}),
    (stubs.Baseline(), {}),
]


def test_another_knob_seed_chunk_or_value_is_another_result(tmp_path, system, asked):
    first = attack(tmp_path, system)
    for made, knobs in QUESTIONS:
        asked.clear()
        attack(tmp_path, system, Run("shift", made, "l2"), **knobs)
        assert asked[0] == 0, (made, knobs)
        assert len(asked) == (2 if "chunk" in knobs else 3)
    asked.clear()
    equal(attack(tmp_path, system), first)  # what was found before is not lost
    assert asked == []


def test_another_name_norm_or_source_is_another_result(tmp_path, system, asked):
    for run in (SHIFT, SHIFT._replace(name="other"), SHIFT._replace(norm="linf")):
        asked.clear()
        attack(tmp_path, system, run)
        assert asked == [0, 4, 8], run
    asked.clear()
    attack(tmp_path, system, SHIFT._replace(source="network"))
    assert asked == [0, 4, 8]
    attack(tmp_path, system, radii=(9.0,))  # which this attack knows nothing of
    assert asked == [0, 4, 8]


def test_other_radii_or_trials_are_another_result_of_an_attack_in_balls(tmp_path, system, asked):
    lower = Run("lower", stubs.Lower(), "l2")
    for knobs in ({}, {"radii": (0.1, 0.2)}, {"trials": 2}):
        asked.clear()
        attack(tmp_path, system, lower, **knobs)
        assert asked == [0, 4, 8], knobs


def test_another_classifier_finds_nothing_of_the_first(tmp_path, system, asked):
    attack(tmp_path, system)
    asked.clear()
    attack(tmp_path, dataclasses.replace(system, fingerprint="of another"))
    assert asked == [0, 4, 8]


def test_without_computing_only_what_is_complete_is_read(tmp_path, system, asked):
    assert attack(tmp_path, system, compute=False) is None
    whole = attack(tmp_path, system)
    asked.clear()
    equal(attack(tmp_path, system, compute=False), whole)
    assert attack(tmp_path, system, compute=False, images=12) is None
    assert asked == []
