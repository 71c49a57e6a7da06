"""Images and labels: the digits, .npz files, and a TFDS set prepared here without TensorFlow."""

import dataclasses
import io
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from knn_jax import config, data

SIZES = {"train": 40, "test": 20, "validation": 15}


@pytest.fixture
def offline(monkeypatch):
    """Whoever opens a socket fails."""

    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def pictures(split):
    """The tiny set in the order it is prepared in: (image, label) with images all different."""
    rng = np.random.default_rng(len(split))
    return [(rng.integers(0, 256, (28, 28), np.uint8), i % 10) for i in range(SIZES[split])]


def prepare(folder, *splits, unlabelled=()):
    """TFDS's own builder prepares a tiny `mnist` of these splits."""

    def records(split):
        for number, (image, label) in enumerate(pictures(split)):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "png")
            yield number, {"image": png.getvalue(), "label": -1 if split in unlabelled else label}

    builder = tfds.builder("mnist", data_dir=folder, file_format="array_record")
    builder._split_generators = lambda *_, **__: {split: records(split) for split in splits}
    builder.download_and_prepare()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder in which `mnist` has been prepared; copied, never used itself."""
    folder = tmp_path_factory.mktemp("tfds")
    prepare(folder, "train", "test")
    return folder


@pytest.fixture
def mnist(prepared, tmp_path):
    """Knobs of a fresh copy of the prepared set."""
    shutil.copytree(prepared, tmp_path / "sets")
    return config.Data(name="mnist", data_dir=str(tmp_path / "sets"), valid_fraction=0.25)


def beside(knobs):
    """What lies in the folder of the prepared set."""
    return sorted(file.name for file in next(data.Path(knobs.data_dir).glob("mnist/*")).iterdir())


def pairs(*splits):
    """Images with their labels, in an order of their own: a multiset."""
    return sorted((i.tobytes(), int(n)) for s in splits for i, n in zip(*s, strict=True))


def equal(a, b):
    return all(
        np.array_equal(x, y)
        for s, t in zip(a[:3], b[:3], strict=True)
        for x, y in zip(s, t, strict=True)
    )


def numbered(count, kind, *, channel):
    """Images that tell their number, and labels (the number modulo 5)."""
    images = np.broadcast_to(np.arange(count)[:, None, None], (count, 4, 3))
    images = images.astype(np.uint8) if kind == "uint8" else (images / 255).astype(kind)
    return images[..., None] if channel else images, np.arange(count) % 5


def numbers(split):
    """The numbers of such images."""
    return np.round(split.floats(0, len(split.labels))[:, 0, 0, 0] * 255).astype(int)


def test_digits_are_images_in_range_of_every_class():
    found = data.load(config.Data())
    assert found.classes == 10
    assert sum(len(split.labels) for split in found[:3]) == 1797
    for split in found[:3]:
        assert split.images.shape == (len(split.labels), 8, 8, 1)
        assert split.images.min() == 0
        assert split.images.max() == 1
        assert split.labels.dtype == np.int32
        assert set(split.labels) == set(range(10))
        assert split.floats(2, 5).shape == (3, 8, 8, 1)


@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_the_held_out_split_keeps_the_shares_of_classes(fraction):
    found = data.load(config.Data(valid_fraction=fraction))
    kept, held = (np.bincount(split.labels, minlength=10) for split in found[:2])
    np.testing.assert_allclose(held, fraction * (kept + held), atol=1)


def test_the_digest_covers_every_image_and_label_of_every_split():
    rng = np.random.default_rng(0)

    def split(rows):
        return data.Split(
            rng.integers(0, 256, (rows, 4, 3, 1), np.uint8), np.arange(rows, dtype=np.int32)
        )

    def changed(array, place):
        array = array.copy()
        array[place] += 1
        return array

    whole = data.Dataset(split(2500), split(7), split(1200), 10, split(5))
    others = [whole._replace(classes=11), whole._replace(extra=None)]
    for name in ("train", "valid", "test", "extra"):
        images, labels = part = getattr(whole, name)
        last = len(labels) - 1
        others += [
            whole._replace(**{name: part._replace(images=changed(images, (last, 3, 2, 0)))}),
            whole._replace(**{name: part._replace(labels=changed(labels, last))}),
            whole._replace(**{name: part._replace(labels=(labels + 3) % len(labels))}),
            whole._replace(**{name: data.Split(images[::-1], labels)}),
            whole._replace(**{name: part._replace(images=part.floats(0, len(labels)))}),
            whole._replace(**{name: part._replace(images=images.reshape(len(labels), 3, 4, 1))}),
        ]
    others.append(whole._replace(valid=whole.extra, extra=whole.valid))
    digests = [found.digest() for found in (whole, *others)]
    assert len(set(digests)) == len(digests)
    # However the arrays lie in memory.
    turned = whole.train._replace(images=np.asfortranarray(whole.train.images))
    assert whole._replace(train=turned).digest() == whole.digest()


def test_the_digest_is_the_same_in_another_process():
    code = "from knn_jax import config, data; print(data.load(config.Data()).digest())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == data.load(config.Data()).digest()


def test_the_seed_decides_the_split_and_only_the_split():
    same, other = (data.load(config.Data(split_seed=seed)) for seed in (2019, 2020))
    assert equal(same, data.load(config.Data()))
    assert not np.array_equal(same.train.images, other.train.images)
    assert pairs(*same[:2]) == pairs(*other[:2])
    assert np.array_equal(same.test.images, other.test.images)


@pytest.mark.parametrize("channel", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("layout", ["one", "two"])
def test_npz_of_either_layout(tmp_path, layout, kind, channel):
    images, labels = numbered(100, kind, channel=channel)
    file = tmp_path / "set.npz"
    if layout == "one":
        np.savez(file, images=images, labels=labels)
    else:
        first, last = slice(0, 70), slice(70, 100)
        np.savez(
            file,
            train_images=images[first],
            train_labels=labels[first],
            test_images=images[last],
            test_labels=labels[last],
        )
    found = data.load(config.Data(name=str(file)))
    seen = [numbers(split) for split in found[:3]]
    assert sorted(np.concatenate(seen)) == list(range(100))  # disjoint, and nothing lost
    for split, number in zip(found[:3], seen, strict=True):
        assert np.array_equal(split.labels, number % 5)
        values = split.floats(0, 4)
        assert values.dtype == np.float32
        assert values.shape == (4, 4, 3, 1)
    if layout == "two":
        assert np.array_equal(seen[2], np.arange(70, 100))  # the test set keeps its order
    assert found.classes == 5


def fit(**changes):
    images, labels = numbered(50, "float32", channel=True)
    return {"images": images, "labels": labels, **changes}


def parted(**changes):
    """The same in two parts, which are alike."""
    return {f"{part}_{k}": v for k, v in fit(**changes).items() for part in ("train", "test")}


def one_of_class_4():
    return np.where(np.arange(50) == 7, 4, np.arange(50) % 4)


def bright(value):
    images = fit()["images"].copy()
    images[3, 2, 1] = value
    return images


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        pytest.param({"pictures": np.zeros(3)}, ["pictures", "train_images"], id="other keys"),
        pytest.param(fit(images=fit()["images"] * 255), ["[0, 1]"], id="not divided by 255"),
        pytest.param(fit(images=fit()["images"] - 0.1), ["-0.1", "[0, 1]"], id="negative"),
        pytest.param(fit(images=np.full((50, 4, 3, 1), np.nan)), ["nan", "[0, 1]"], id="NaN"),
        pytest.param(fit(labels=np.arange(50) % 5 * 2), ["class 1"], id="a class without images"),
        pytest.param(fit(labels=np.arange(50) % 5 - 1), ["-1"], id="negative label"),
        pytest.param(fit(labels=np.zeros(49, int)), ["(49,)"], id="a label too few"),
        pytest.param(fit(images=np.zeros((50, 12))), ["(50, 12)"], id="flat images"),
        pytest.param(fit(images=np.zeros((0, 4, 3, 1)), labels=np.zeros(0, int)), ["row"], id="empty"),
        pytest.param(fit(images=np.zeros((50, 0, 3, 1))), ["(50, 0, 3, 1)"], id="no pixels"),
        pytest.param(fit(images=np.full((50, 4, 3, 1), "a")), ["<U1"], id="images that are words"),
        pytest.param(fit(images=np.zeros((50, 4, 3, 1), complex)), ["complex128"], id="complex images"),
        pytest.param(
            {**parted(), "test_images": np.zeros((50, 3, 3, 1))}, ["(3, 3, 1)", "(4, 3, 1)"], id="sizes"
        ),
        pytest.param(fit(labels=np.arange(50) % 5 + 0.5), ["0.5", "float64"], id="half labels"),
        pytest.param(fit(labels=np.full(50, np.inf)), ["inf"], id="infinite label"),
        pytest.param(fit(labels=np.arange(50) % 5 + 2**32), ["4294967296"], id="labels that wrap"),
        pytest.param(fit(labels=np.full(50, "cat")), ["cat", "<U3"], id="labels that are words"),
        pytest.param(fit(labels=one_of_class_4()), ["one image of class 4"], id="alone of its class"),
        pytest.param(fit(images=bright(1.00002)), ["1.00002", "[0, 1]"], id="hardly too bright"),
        pytest.param(parted(labels=np.arange(50) % 5 + 0.5), ["0.5"], id="half labels, two parts"),
        pytest.param(parted(labels=one_of_class_4()), ["one image of class 4"], id="alone, two parts"),
        pytest.param(parted(labels=np.arange(50) % 25), ["25 classes", "5 of 50"], id="many classes"),
    ],
)
def test_unfit_npz_is_one_line_that_says_why(tmp_path, arrays, words):
    file = tmp_path / "set.npz"
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match=r"set\.npz") as error:
        data.load(config.Data(name=str(file)))
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("value", [1.0000001, -1e-6])
def test_what_rounding_left_outside_is_clipped(tmp_path, value):
    file = tmp_path / "set.npz"
    np.savez(file, **fit(images=bright(value)))
    found = data.load(config.Data(name=str(file), valid_fraction=0.2))
    assert min(split.images.min() for split in found[:3]) == 0
    assert max(split.images.max() for split in found[:3]) == max(np.float32(49 / 255), round(value))


def test_whole_numbers_may_be_floats(tmp_path):
    file = tmp_path / "set.npz"
    np.savez(file, **fit(labels=(np.arange(50) % 5).astype(float)))
    assert data.load(config.Data(name=str(file), valid_fraction=0.2)).train.labels.dtype == np.int32


def test_a_test_label_that_is_no_class_of_the_training_set(tmp_path):
    images, labels = numbered(50, "uint8", channel=True)
    file = tmp_path / "set.npz"
    few = labels < 4
    np.savez(
        file,
        train_images=images[few],
        train_labels=labels[few],
        test_images=images,
        test_labels=labels,
    )
    with pytest.raises(ValueError, match="test label 4"):
        data.load(config.Data(name=str(file)))


def test_missing_npz():
    with pytest.raises(ValueError, match=r"no file .*nowhere\.npz$"):
        data.load(config.Data(name="nowhere.npz"))


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04 cut short"])
def test_damaged_npz_is_named(tmp_path, content):
    file = tmp_path / "set.npz"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"set\.npz"):
        data.load(config.Data(name=str(file)))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_a_fraction_that_leaves_nothing(fraction):
    with pytest.raises(ValueError, match=f"valid_fraction={fraction}"):
        data.load(config.Data(valid_fraction=fraction))


@pytest.mark.parametrize(
    ("name", "near"), [("minst", "mnist"), ("cifar01", "cifar10"), ("digit", "digits")]
)
def test_an_unknown_set_is_answered_with_the_nearest(offline, tmp_path, name, near):
    with pytest.raises(ValueError, match=f"{name!r}.*{near!r}") as error:
        data.load(config.Data(name=name, data_dir=str(tmp_path)))
    assert "\n" not in str(error.value)


def test_an_unprepared_set_is_one_sentence_at_once(offline, tmp_path):
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"fashion_mnist.* not prepared") as error:
        data.load(config.Data(name="fashion_mnist", data_dir=str(tmp_path)))
    assert time.perf_counter() - start < 5
    assert f"tfds build fashion_mnist --data_dir={tmp_path}" in str(error.value)
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())


def test_tfds_set_is_read_without_tensorflow_or_network(offline, mnist, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # importing it raises
    found = data.load(mnist)
    assert [len(split.labels) for split in found[:3]] == [30, 10, 20]
    assert found.train.images.shape[1:] == (28, 28, 1)
    assert found.train.images.dtype == np.uint8
    assert pairs(*found[:2]) == sorted((i.tobytes(), n) for i, n in pictures("train"))
    assert pairs(found.test) == sorted((i.tobytes(), n) for i, n in pictures("test"))


@pytest.mark.parametrize(("unlabelled", "rows"), [((), 20), (("test",), 15)])
def test_a_test_split_without_labels_gives_way_to_validation(tmp_path, unlabelled, rows):
    """ImageNet's, whose labels TFDS gives as -1."""
    prepare(tmp_path, *SIZES, unlabelled=unlabelled)
    found = data.load(config.Data(name="mnist", data_dir=str(tmp_path), valid_fraction=0.25))
    assert len(found.test.labels) == rows


def test_the_second_load_reads_what_the_first_decoded(mnist, monkeypatch):
    said = []

    def track(items, what):
        said.append(what)
        return items

    first = data.load(mnist, track)
    assert [what.split()[-1] for what in said] == ["train", "test"]
    monkeypatch.setattr(tfds.core.DatasetBuilder, "as_data_source", None)  # calling it raises
    assert equal(data.load(mnist, track), first)
    assert len(said) == 2


def test_a_cached_set_is_read_in_under_a_second(mnist):
    data.load(mnist)
    start = time.perf_counter()
    data.load(mnist)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("function", ["tempfile.mkdtemp", "np.save", "os.replace"])
def test_a_set_that_cannot_be_written_beside_still_loads(mnist, monkeypatch, function):
    before = beside(mnist)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        module, name = function.split(".")
        patch.setattr(getattr(data, module), name, refuse)
        unwritten = data.load(mnist)
    assert beside(mnist) == before  # nothing half-written stays
    assert equal(data.load(mnist), unwritten)


def test_resized_images_have_a_cache_of_their_own(mnist):
    full = data.load(mnist)
    small = data.load(config.Data(**{**vars(mnist), "size": 14}))
    assert small.test.images.shape == (20, 14, 14, 1)
    assert np.array_equal(small.test.labels, full.test.labels)
    means = (split.images.mean((1, 2, 3)) for split in (small.test, full.test))
    np.testing.assert_allclose(*means, rtol=0.1)
    assert equal(data.load(mnist), full)


@pytest.mark.parametrize(
    ("size", "words"), [(-5, "data.size=-5: a side"), (32, "digits keeps its size")]
)
def test_a_size_that_would_do_nothing(size, words):
    with pytest.raises(ValueError, match=words):
        data.load(config.Data(size=size))


def test_the_first_training_images_only():
    """They are split among themselves; the test set stays whole."""
    few, whole = data.load(config.Data(train_images=100)), data.load(config.Data())
    assert len(few.train.labels) + len(few.valid.labels) == 100
    np.testing.assert_array_equal(few.test.images, whole.test.images)
    for count in (-1, 100_000):
        with pytest.raises(ValueError, match=rf"data\.train_images={count}: digits has \d+; 0 is all"):
            data.load(config.Data(train_images=count))


def test_candidates_are_a_split_of_their_own(mnist, tmp_path):
    """Of a TFDS set and of an .npz; otherwise the training images."""
    knobs = dataclasses.replace(mnist, candidates="test")
    dataset = data.load(knobs)
    np.testing.assert_array_equal(dataset.candidates.images, dataset.test.images)
    plain = data.load(mnist)
    assert plain.extra is None
    assert plain.candidates is plain.train
    rng = np.random.default_rng(0)
    arrays = {}
    for name, rows in (("train", 40), ("test", 10), ("more", 20)):
        arrays |= {f"{name}_images": rng.random((rows, 2, 2)), f"{name}_labels": np.arange(rows) % 5}
    np.savez(tmp_path / "set.npz", **arrays)
    file = config.Data(name=str(tmp_path / "set.npz"), candidates="more", valid_fraction=0.25)
    found = data.load(file)
    np.testing.assert_array_equal(found.candidates.labels, arrays["more_labels"])
    assert found.candidates.images.shape == (20, 2, 2, 1)
    for knobs, words in (
        (dataclasses.replace(mnist, candidates="extra"), "has the splits train, test"),
        (dataclasses.replace(file, candidates="extra"), "no extra_images"),
        (config.Data(candidates="extra"), "the digits have no such split"),
    ):
        with pytest.raises(ValueError, match=f"data.candidates='extra'.*{words}"):
            data.load(knobs)
    np.savez(tmp_path / "set.npz", **{**arrays, "more_labels": np.arange(20) % 6})
    with pytest.raises(ValueError, match="more label 5 is no class of the training set"):
        data.load(file)
