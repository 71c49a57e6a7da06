"""A workdir and data in a bucket, of an emulator: as on a disk, and what it refuses is one line."""

import io
import signal
import time

import emulator
import numpy as np
import pytest
import stubs
from some_digits import few as few_digits
from test_training import same, softmax_regression

from knn_jax import data, training, workdir
from knn_jax.evaluation import attacked
from knn_jax.training import Optim, checkpoints
from knn_jax.workdir import bucket, files, lease, lock

pytestmark = [
    pytest.mark.usefixtures("trains", "quick"),
    pytest.mark.filterwarnings("ignore:Sending a large body"),  # aiohttp, of what gcsfs gives it
]
WORKDIR = "gs://bucket/run"


@pytest.fixture(scope="module")
def serving():
    with emulator.running() as store, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", store.url)
        patch.setattr(checkpoints, "EVERY", 0.0)
        patch.setattr(lease, "RENEWED", 0.1)
        patch.setattr(lease, "DEAD", 1.0)
        patch.setattr(lease, "LOOK", 0.05)
        bucket.client.cache_clear()
        yield store
        bucket.client.cache_clear()


@pytest.fixture
def store(serving):
    serving.storage.wipe(keep_buckets=True)
    serving.asked.clear()
    return serving


def place(name=WORKDIR):
    return files.place("workdir", name)


def one_line(words, refused, *arguments):
    with pytest.raises(ValueError, match=words) as error:
        refused(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [1, 1000, bucket.SMALL - 1, bucket.SMALL, 2 * bucket.SMALL + 3])
def test_what_is_written_is_read(store, tmp_path, size):
    content = np.random.default_rng(size).bytes(size)
    at = place() / "a file" / "1%2.bin"
    with files.whole(at) as scratch:
        scratch.write_bytes(content)
    assert not scratch.exists()
    assert store.names() == ["run/a file/1%2.bin"]
    assert store.content("run/a file/1%2.bin") == content == bucket.read(at)
    bucket.download(at, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    assert files.exists(at)
    assert files.exists(at.parent)
    assert not files.exists(place("gs://bucket/ru"))


def half(scratch):
    scratch.write_bytes(b"half")
    raise KeyError


def test_a_file_is_written_whole_or_not_at_all(store):
    for before in (None, b"before"):
        if before:
            bucket.write(place() / "x", before)
        with pytest.raises(KeyError), files.whole(place() / "x") as scratch:
            half(scratch)
        assert bucket.read(place() / "x") == before


def test_which_files_there_are_is_asked_once(store):
    there, other = place() / "parts" / "1.npz", place("gs://bucket/run2") / "1.npz"
    for at in (there, other):
        bucket.write(at, b"some")
    assert files.present([there, there.with_name("2.npz")]) == {there}
    assert bucket.below(place()) == ["parts/1.npz"]
    assert bucket.below(place("gs://bucket")) == ["run/parts/1.npz", "run2/1.npz"]


def test_of_several_writers_one_is_first(store):
    at = place() / "x"
    first = bucket.write(at, b"first", "0")
    assert first == bucket.generation(at)
    assert bucket.write(at, b"second", "0") is None
    second = bucket.write(at, b"second", first)
    assert bucket.write(at, b"third", first) is None
    bucket.remove(at, first)
    assert bucket.read(at) == b"second"
    bucket.remove(at, second)
    assert bucket.read(at) is None
    bucket.remove(at)


def test_a_folder_is_held_by_one_and_free_afterwards(store):
    lock.check(place())
    assert store.names() == []
    with lock.held(place()):
        for ask in (lambda: lock.check(place()), lambda: lock.held(place()).__enter__()):
            one_line(f"{WORKDIR} is in use by process ", ask)
    assert store.names() == []
    lock.check(place())


def test_the_lock_of_a_dead_run_ends(store):
    bucket.write(place() / lease.FILE, b"process 7 of a host\n")
    start = time.monotonic()
    with lock.held(place()):
        assert time.monotonic() - start > 1
    assert store.names() == []


def robbed(at):
    bucket.write(at, b"process 7 of a host\n")
    time.sleep(5)


@pytest.fixture
def interruptible():
    """Workers of pytest-xdist ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_run_whose_folder_another_has_taken_is_interrupted(store, capsys, interruptible):
    start, said = time.monotonic(), ""
    with pytest.raises(KeyboardInterrupt), lock.held(place()):
        robbed(place() / lease.FILE)
    while "in use by process 7" not in said:
        assert time.monotonic() - start < 5
        time.sleep(0.05)
        said += capsys.readouterr().err
    assert bucket.read(place() / lease.FILE) == b"process 7 of a host\n"


def test_a_bucket_that_cannot_be_written_is_one_line_at_once(store, monkeypatch):
    one_line("there is no bucket gs://none", workdir.check, "gs://none/run")
    monkeypatch.setattr(store, "read_only", True)
    one_line(rf"^{WORKDIR} cannot be written: me@example\.com does not have", workdir.check, WORKDIR)
    monkeypatch.setattr(bucket, "HURRY", 0.5)
    store.stop()
    try:
        start = time.monotonic()
        one_line(f"{WORKDIR} .*no answer from {store.url}", workdir.check, WORKDIR)
        assert time.monotonic() - start < 5
    finally:
        store.start()


def test_arrays_in_a_bucket(store):
    made = few_digits(40)
    packed = io.BytesIO()
    np.savez(packed, images=made.train.images, labels=made.train.labels)
    bucket.write(place() / "set.npz", packed.getvalue())
    asked = data.at_path(f"{WORKDIR}/set.npz", data.Digits())
    assert asked == data.NPZ(f"{WORKDIR}/set.npz")
    assert asked.name == "set.npz"
    found = files.arrays(place() / "set.npz")
    assert np.array_equal(found["images"], made.train.images)
    one_line(f"there is no file .*{WORKDIR}/none.npz", data.at_path, f"{WORKDIR}/none.npz", asked)
    one_line(f"there is no file {WORKDIR}/none.npz", data.NPZ(f"{WORKDIR}/none.npz").load)
    bucket.write(place() / "set.npz", packed.getvalue()[:-9])
    one_line(f"{WORKDIR}/set.npz is damaged", asked.load)
    one_line(f"path='{WORKDIR}'", data.at_path, WORKDIR, asked)
    one_line(f"data_dir='{WORKDIR}'", lambda: data.TFDS("mnist", data_dir=WORKDIR))


@pytest.fixture(scope="module")
def few():
    return few_digits(200)


def trained(few, folder, epochs):
    return training.train(softmax_regression(), few, Optim(epochs=epochs), folder)


def steps(store):
    """The names of what is there below the checkpoints, steps or not."""
    return {name.split("/")[2] for name in store.names("run/checkpoints/")}


def copied(store, folder):
    """The objects of the workdir, as files of a folder."""
    for name in store.names("run/"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(store.content(name))
    return folder / "run"


def test_training_goes_on_from_a_bucket_as_from_a_disk(store, few, tmp_path):
    whole = trained(few, tmp_path / "disk", 3)
    trained(few, place(), 1)
    assert steps(store) == {"2"}
    trained(few, place(), 2)
    folder = copied(store, tmp_path)
    assert same(trained(few, place(), 3), whole)
    assert steps(store) == {"4", "6"}
    assert same(trained(few, folder, 3), whole)  # on a disk
    store.asked.clear()
    assert same(trained(few, place(), 3), whole)
    assert store.asked == []


def test_a_damaged_checkpoint_is_set_aside_and_one_cut_short_is_passed_over(store, few, capsys):
    whole = trained(few, place(), 2)
    files_of = store.names("run/checkpoints/4/")
    largest = max(files_of, key=lambda name: len(store.content(name)))
    content = bytearray(store.content(largest))
    content[len(content) // 2] ^= 1
    bucket.write(place(f"gs://bucket/{largest}"), bytes(content))
    assert same(trained(few, place(), 2), whole)
    assert f"{WORKDIR}/checkpoints/4 is damaged" in capsys.readouterr().err
    assert steps(store) == {"2", "4", ".4.damaged"}
    bucket.remove(place() / "checkpoints" / "4" / checkpoints.SUMS)
    bucket.write(place() / "checkpoints" / "4" / "of another upload", b"some")
    assert same(trained(few, place(), 2), whole)
    assert f"{WORKDIR}/checkpoints/4 has no" in capsys.readouterr().err
    assert not any("of another upload" in name for name in store.names("run/checkpoints/4/"))
    for step in (2, 4):
        bucket.write(place() / "checkpoints" / f"{step}" / "more", b"some")
    before = store.names()
    one_line("is damaged .more. and none that is older is whole", trained, few, place(), 2)
    assert store.names() == before


def test_an_upload_ends_with_the_checksums(store, few, monkeypatch):
    """So that one that is cut short shows."""
    trained(few, place(), 1)
    uploads = [path for kind, path in store.asked if kind == "POST"]
    assert checkpoints.SUMS in uploads[-1]
    monkeypatch.setattr(store, "read_only", True)
    one_line(f"{WORKDIR}/checkpoints/4/.* cannot be written", trained, few, place(), 2)
    assert steps(store) == {"2"}


def test_chunks_are_found_again(store, monkeypatch, capsys):
    system, shift = stubs.system(), attacked.Run("shift", stubs.Shift(), "l2")

    def attack(compute=True):
        return attacked.attack(stubs.recipe(), system, shift, place(), compute=compute)

    assert attack(compute=False) is None
    whole = attack()
    name = next(name for name in store.names("run/parts/") if name.endswith("000004_4.npz"))
    content = store.content(name)
    bucket.write(place(f"gs://bucket/{name}"), content[:-9])
    assert attack(compute=False) is None
    assert f"gs://bucket/{name} is damaged" in capsys.readouterr().err.replace("\n", "")
    for found in (attack(), attack(compute=False)):
        for key, array in whole.arrays.items():
            np.testing.assert_array_equal(array, found.arrays[key])

    def silent(path):
        raise TimeoutError

    monkeypatch.setattr(bucket.client(), "cat_file", silent)
    store.asked.clear()
    one_line("no answer", attack)  # and nothing is computed anew
    assert store.asked == []
