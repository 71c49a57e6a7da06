"""Images decoded into files, and read from them row by row."""

import dataclasses
import os
import shutil
import threading

import jax
import numpy as np
import pytest
from some_digits import few as few_digits

from knn_jax import data, nets, training
from knn_jax.data import decoding, stored
from knn_jax.data.stored import Stored
from knn_jax.defenses import CrossEntropy

COUNT = 11


@dataclasses.dataclass
class Records:
    """Images of noise with labels, which notes what is read of it and ends a process at a record."""

    fatal: int = COUNT
    odd: int = COUNT
    torn: int = COUNT
    dtype: type = np.uint8
    many: bool = False
    read: list[int] = dataclasses.field(default_factory=list)

    def __len__(self):
        return COUNT

    def __getitem__(self, row):
        if row >= self.fatal:
            raise KeyboardInterrupt
        if row == self.torn:
            raise OSError("image file is\ntruncated")
        self.read.append(row)
        side = 5 if row == self.odd else 4
        image = np.random.default_rng(row).integers(0, 256, (side, 4, 3), np.uint8)
        label = np.int64(row % 3)
        return {
            "image": image.astype(self.dtype),
            "label": np.stack([label] * 2) if self.many else label,
        }


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Few records are decoded together, and few rows are read by one thread."""
    monkeypatch.setattr(decoding, "TOGETHER", 4)
    monkeypatch.setattr(stored, "FEW", 2)


def decoded(records, folder, size=0):
    return decoding.decode(records, "noise", size, folder, lambda items, _: items)


def left(folder):
    """What lies there beside the lock."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def expected():
    records = [Records()[row] for row in range(COUNT)]
    return np.stack([r["image"] for r in records]), np.array([r["label"] for r in records])


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A folder with the decoded records."""
    folder = tmp_path_factory.mktemp("noise") / "decoded"
    decoded(Records(), folder)
    return folder


@pytest.mark.parametrize("held", [0, 2**30])
def test_what_is_read_is_what_was_decoded(tmp_path, monkeypatch, held):
    """Kept in memory or in the file; labels are int32 and images bytes."""
    monkeypatch.setattr(decoding, "HELD", held)
    found, again = decoded(Records(), tmp_path / "set"), decoding.read(tmp_path / "set")
    for split in (found, again):
        assert isinstance(split.images, Stored) == (held == 0)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        for part, other in zip(split, expected(), strict=True):
            np.testing.assert_array_equal(part[:], other)
    assert left(tmp_path) == ["set"]


@pytest.mark.parametrize("fatal", [0, 3, 9])
def test_a_killed_one_goes_on_where_it_was(tmp_path, fatal):
    """It reads again the records that were decoded together with the one it died at, and the first."""
    with pytest.raises(KeyboardInterrupt):
        decoded(Records(fatal=fatal), tmp_path / "set")
    records = Records()
    found = decoded(records, tmp_path / "set")
    assert set(records.read) - {0} == set(range(fatal // 4 * 4, COUNT)) - {0}
    np.testing.assert_array_equal(found.images[:], expected()[0])


def test_half_a_set_of_another_shape_is_begun_anew(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        decoded(Records(fatal=9), tmp_path / "set", size=2)
    found = decoded(Records(), tmp_path / "set")
    np.testing.assert_array_equal(found.images[:], expected()[0])


def test_of_two_processes_one_decodes(tmp_path):
    records = Records()
    found = []

    def run():
        found.append(decoded(records, tmp_path / "set"))

    threads = [threading.Thread(target=run) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(records.read) == [0, 0, *range(COUNT)]  # both look at the first for its shape
    assert len(found) == 2
    for split in found:
        np.testing.assert_array_equal(split.images[:], expected()[0])


def test_images_of_several_sizes_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"^the images of noise differ in size: .*\Z"):
        decoded(Records(odd=7), tmp_path / "set")
    assert not left(tmp_path)


def test_other_numbers_than_bytes_stay_what_they_are(tmp_path):
    found = decoded(Records(dtype=np.float32), tmp_path / "set")
    assert found.images.dtype == np.float32
    np.testing.assert_array_equal(found.images[:], expected()[0])


def test_labels_of_several_numbers_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"^the labels of noise are \(2,\), .*\Z"):
        decoded(Records(many=True), tmp_path / "set")
    assert not left(tmp_path)


def test_a_record_that_cannot_be_read_is_named_and_what_was_decoded_stays(tmp_path):
    with pytest.raises(ValueError, match=r"^record 9 of noise cannot be read: .* truncated\Z"):
        decoded(Records(torn=9), tmp_path / "set")
    records = Records()
    decoded(records, tmp_path / "set")
    assert set(records.read) == {0, 8, 9, 10}


@pytest.mark.parametrize("held", [0, 2**30])
@pytest.mark.parametrize("damage", ["no labels", "no images", "cut", "empty", "fewer"])
def test_a_damaged_folder_is_named(noise, tmp_path, monkeypatch, held, damage):
    monkeypatch.setattr(decoding, "HELD", held)
    folder = tmp_path / "set"
    shutil.copytree(noise, folder)
    images, labels = folder / "images.npy", folder / "labels.npy"
    if damage == "fewer":
        np.save(labels, np.zeros(COUNT - 1, np.int32))
    elif damage.startswith("no"):
        (labels if damage == "no labels" else images).unlink()
    else:
        os.truncate(images, 0 if damage == "empty" else images.stat().st_size - 1)
    with pytest.raises(ValueError, match=rf"^{folder} is damaged \(.*\): remove this folder, .*\Z"):
        decoding.read(folder)


@pytest.mark.parametrize("call", ["mkdir", "fsync", "replace"])
def test_few_that_cannot_be_written_stay_in_memory(tmp_path, monkeypatch, call):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, call, refuse)
    found = decoded(Records(), tmp_path / "set")
    np.testing.assert_array_equal(found.images[:], expected()[0])
    assert not left(tmp_path)
    monkeypatch.setattr(decoding, "HELD", 0)
    with pytest.raises(ValueError, match=r"^.*set cannot be written: .*\Z"):
        decoded(Records(), tmp_path / "set")


@pytest.mark.parametrize("index", [None, np.arange(COUNT)[::-1], np.array([3, 3, 0, 10, 4, 5])])
def test_rows_in_a_file_are_indexed_as_an_array(noise, index):
    """By slices and by row numbers, and rows of rows."""
    array = expected()[0]
    held = Stored(noise / "images.npy", index)
    array = array if index is None else array[index]
    assert (held.shape, held.ndim, held.size) == (array.shape, array.ndim, array.size)
    draw = np.random.default_rng(0)
    for _ in range(20):
        ends = draw.integers(-len(array), len(array) + 3, 2)
        some = draw.integers(0, len(array), draw.integers(0, 9))
        np.testing.assert_array_equal(held[slice(*ends)], array[slice(*ends)])
        np.testing.assert_array_equal(held[some], array[some])
        np.testing.assert_array_equal(held.rows(some)[:], array[some])


def test_a_digest_is_of_the_numbers_and_their_order(noise, tmp_path):
    """Kept beside the file, and made anew where that has changed."""
    file = tmp_path / "images.npy"
    array = expected()[0]
    np.save(file, array)
    held = Stored(file)
    assert held.digest() == Stored(noise / "images.npy").digest() == Stored(file).digest()
    assert held.digest() != held.rows(np.arange(COUNT)[::-1]).digest()
    before, times = held.digest(), file.stat()
    array[2, 1, 1, 1] ^= 1
    np.save(file, array)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as cp -p leaves it
    assert Stored(file).digest() != before


def test_a_file_cut_short_is_told(noise, tmp_path):
    file = tmp_path / "images.npy"
    file.write_bytes((noise / "images.npy").read_bytes())
    held = Stored(file)
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(ValueError, match=r"^.*images.npy was cut short while it was read\Z"):
        held[:]


def test_training_from_the_file_has_the_bits_of_training_from_memory(tmp_path, trains):
    dataset = few_digits(96)
    images = (255 * dataset.train.images[:]).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    kept = [
        dataset._replace(train=data.Split(part, dataset.train.labels))
        for part in (images, Stored(tmp_path / "images.npy"))
    ]
    defense, optim = CrossEntropy(nets.MLP((8,))), training.Optim(epochs=1, batch_size=32)
    found = [
        defense.fit(dataset, optim, tmp_path / f"{number}").variables
        for number, dataset in enumerate(kept)
    ]
    jax.tree.map(np.testing.assert_array_equal, *found)
