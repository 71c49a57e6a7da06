"""Files that are written whole or not at all, and arrays that are read as they were written."""

import os
import threading

import numpy as np
import pytest

from knn_jax.workdir import files


def test_whole_replaces_the_file(tmp_path):
    file = tmp_path / "new" / "file"
    for text in ("first", "second"):
        with files.whole(file) as scratch:
            scratch.write_text(text)
            assert not file.exists() or file.read_text() != text
        assert file.read_text() == text
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_whole_leaves_the_old_file_and_no_other_on_an_error(tmp_path, error):
    file = tmp_path / "file"
    file.write_text("old")

    def write():
        with files.whole(file) as scratch:
            scratch.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_what_takes_the_place_is_on_disk_before(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: done.append("sync") or sync(number))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("replace") or replace(*names))
    with files.whole(tmp_path / "file") as scratch:
        scratch.write_text("whole")
    assert done == ["sync", "replace", "sync"]  # the file, its name, the folder


def test_writers_with_equal_process_ids_do_not_meet(tmp_path, monkeypatch):
    """As in two containers with one folder: each of 200 reads finds one of the files whole."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    file, faults = tmp_path / "file", []

    def write(number):
        try:
            for _ in range(100):
                with files.whole(file) as scratch:
                    scratch.write_bytes(bytes([number]) * 10_000)
                if len(set(file.read_bytes())) != 1:
                    faults.append("two writers in one file")
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("text", ["", "more than fits"])
def test_a_full_disk_is_one_line_with_the_file(tmp_path, text):
    file = tmp_path / "file"
    file.write_text("old")

    def write():
        with files.whole(file) as scratch:
            scratch.write_text(text)
            with open("/dev/full", "w") as full:
                full.write("x")

    with pytest.raises(ValueError, match="No space left") as error:
        write()
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("place", ["", "below"])
def test_what_stands_in_the_way_is_one_line_with_the_file(tmp_path, place):
    """A folder where the file should be, a file where its folder should be."""
    file = tmp_path / "name" / place
    if place:
        (tmp_path / "name").write_text("mine")
    else:
        (file / "inside").mkdir(parents=True)

    def write():
        with files.whole(file) as scratch:
            scratch.write_text("new")

    with pytest.raises(ValueError, match="cannot be written") as error:
        write()
    assert str(file) in str(error.value)
    assert [f.name for f in tmp_path.iterdir()] == ["name"]


def test_sweeping_removes_scratch_files_and_no_others(tmp_path):
    (tmp_path / "deep").mkdir()
    kept = {tmp_path / name for name in ("a", ".a", ".scratch", "x.scratch", "deep/a.npz")}
    for file in kept:
        file.write_text("mine")
    writers = [files.whole(file) for file in (tmp_path / "a", tmp_path / "deep" / "a.npz")]
    for writer in writers:
        writer.__enter__().write_text("half")  # and goes no further
    assert len(list(tmp_path.rglob(".*.scratch"))) == 2
    files.sweep(tmp_path)
    assert {f for f in tmp_path.rglob("*") if f.is_file()} == kept


SAVED = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.asarray("name"), "c": np.ones(2)}


def test_a_byte_that_flips_is_noticed_wherever_it_is(tmp_path):
    """Or changes no array: it may be in a time stamp, or hide one in the directory of the file."""
    file = tmp_path / "a.npz"
    np.savez(file, **SAVED)
    whole, noticed = file.read_bytes(), 0
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            found = files.arrays(file)
        except ValueError as error:
            noticed += str(file) in f"{error}" and "\n" not in f"{error}"
        else:
            assert found.keys() <= SAVED.keys()
            for name, array in found.items():
                np.testing.assert_array_equal(array, SAVED[name])
    assert noticed > len(whole) // 2


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_file_that_is_cut_is_noticed(tmp_path, cut):
    file = tmp_path / "a.npz"
    np.savez(file, **SAVED)
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"a\.npz is damaged"):
        files.arrays(file)


def test_a_folder_and_one_array_are_no_npz(tmp_path):
    np.save(tmp_path / "one.npy", np.ones(3))
    for place in (tmp_path, tmp_path / "one.npy", tmp_path / "none.npz"):
        with pytest.raises(ValueError, match="damaged") as error:
            files.arrays(place)
        assert str(place) in str(error.value)


@pytest.mark.parametrize("place", ["gs://bucket/run", "s3://a", "file:///tmp/x", "gs://", "gs:///a"])
def test_a_place_that_is_not_read_is_refused(place):
    reads = [files.local] if place == "gs://bucket/run" else [files.local, files.place]
    for read in reads:
        with pytest.raises(ValueError, match=f"workdir='{place}'"):
            read("workdir", place)


def test_a_bucket_needs_gcsfs_and_a_local_path_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(files.bucket.importlib.util, "find_spec", lambda name: None)
    assert files.place("workdir", str(tmp_path)) == tmp_path
    with pytest.raises(ValueError, match=r"workdir='gs://bucket/run' .*knn_jax\[gcs\]"):
        files.place("workdir", "gs://bucket/run")


def test_a_home_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="workdir='~nobody-of-that-name/x'"):
        files.local("workdir", "~nobody-of-that-name/x")
