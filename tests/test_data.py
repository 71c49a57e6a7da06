"""Data sets as values: one contract for all of them, then what each kind has of its own.

TFDS sets are prepared here without TensorFlow.
"""

import dataclasses
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from knn_jax import data, values

SIZES = {"train": 40, "test": 20, "validation": 15}
CLASSES = {"cat": 12, "dog": 20, "owl": 8}  # images of each in a folder


def pictures(split):
    """The tiny TFDS set in the order it is prepared in: (image, label) with images all different."""
    rng = np.random.default_rng(len(split))
    return [(rng.integers(0, 256, (28, 28), np.uint8), i % 10) for i in range(SIZES[split])]


def prepare(folder, *splits, unlabelled=(), edit=False):
    """TFDS's own builder prepares a tiny `mnist` of these splits."""

    def records(split):
        for number, (image, label) in enumerate(pictures(split)):
            image[5, 6] += edit and number == 3
            png = io.BytesIO()
            Image.fromarray(image).save(png, "png")
            yield number, {"image": png.getvalue(), "label": -1 if split in unlabelled else label}

    builder = tfds.builder("mnist", data_dir=folder, file_format="array_record")
    builder._split_generators = lambda *_, **__: {split: records(split) for split in splits}
    builder.download_and_prepare()


def draw(folder, *, colours=False, ending="png", side=(6, 5), counts=CLASSES, edit=False, seed=0):
    """Images all different in one folder for each class; `side` is (height, width)."""
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(0, 200, (*side, 3) if colours else side, np.uint8)
            image[2:4, 3] += np.uint8(50 * (edit and number == 3))
            Image.fromarray(image).save(folder / name / f"{number:02d}.{ending}")
    return folder


def numbered(count, kind, *, channel):
    """Images that tell their number, and labels (the number modulo 5)."""
    images = np.broadcast_to(np.arange(count)[:, None, None], (count, 4, 3))
    images = images.astype(np.uint8) if kind == "uint8" else (images / 255).astype(kind)
    return images[..., None] if channel else images, np.arange(count) % 5


def fit(**changes):
    images, labels = numbered(50, "float32", channel=True)
    return {"images": images, "labels": labels, **changes}


def parted(**changes):
    """The same in two parts, which are alike."""
    return {f"{part}_{k}": v for k, v in fit(**changes).items() for part in ("train", "test")}


def packed(file, arrays):
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **arrays)
    return str(file)


# Each makes a tiny set in a new folder, `edit` with one pixel changed, and gives its value.


def digits(folder, *, edit=False):
    return data.Digits()  # which nobody can edit


def mnist(folder, *, edit=False):
    prepare(folder, "train", "test", edit=edit)
    return data.TFDS("mnist", str(folder), valid_fraction=0.25)


def npz(folder, *, edit=False):
    images = fit()["images"] + np.float32(edit) * (np.indices((50, 4, 3, 1)).sum(0) == 9) / 255
    return data.NPZ(packed(folder / "set.npz", fit(images=images)), valid_fraction=0.2)


def npz_in_parts(folder, *, edit=False):
    images = numbered(50, "uint8", channel=False)[0] + np.uint8(edit)
    return data.NPZ(packed(folder / "set.npz", parted(images=images)), valid_fraction=0.2)


def folder(folder, *, edit=False):
    return data.Folder(str(draw(folder / "pets", edit=edit)), valid_fraction=0.2)


def folder_in_parts(folder, *, edit=False):
    for seed, part in enumerate(("train", "test")):
        draw(folder / "pets" / part, colours=True, ending="JPG", edit=edit, seed=seed)
    return data.Folder(str(folder / "pets"), valid_fraction=0.2)


DATA = [digits, mnist, npz, npz_in_parts, folder, folder_in_parts]
SHAPES = {
    digits: (10, (8, 8, 1), (1293, 144, 360)),
    mnist: (10, (28, 28, 1), (30, 10, 20)),
    npz: (5, (4, 3, 1), (32, 8, 10)),
    npz_in_parts: (5, (4, 3, 1), (40, 10, 50)),
    folder: (3, (6, 5, 1), (25, 7, 8)),
    folder_in_parts: (3, (6, 5, 3), (32, 8, 40)),
}


@pytest.fixture(scope="module", params=DATA, ids=lambda make: make.__name__)
def case(request, tmp_path_factory):
    """A kind, and its value of a set that is there."""
    return request.param, request.param(tmp_path_factory.mktemp(request.param.__name__))


@pytest.fixture
def offline(monkeypatch):
    """Whoever opens a socket fails."""

    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def pairs(*splits):
    """Images with their labels, in an order of their own: a multiset."""
    return sorted((i.tobytes(), int(n)) for s in splits for i, n in zip(*s, strict=True))


def equal(a, b):
    return all(
        np.array_equal(x, y)
        for s, t in zip(a[:3], b[:3], strict=True)
        for x, y in zip(s, t, strict=True)
    )


def refused(value, *words):
    """Loading it is one line that has these words."""
    parts = "".join(f"(?=.*{re.escape(word)})" for word in words)
    with pytest.raises(ValueError, match=rf"^{parts}.*\Z"):
        value.load()


def test_images_in_range_of_every_class(case):
    make, value = case
    classes, shape, counts = SHAPES[make]
    dataset = value.load()
    assert dataset.classes == classes
    assert tuple(len(split.labels) for split in dataset[:3]) == counts
    for split in dataset[:3]:
        assert split.images.shape == (len(split.labels), *shape)
        assert split.images.dtype == np.uint8 or 0 <= split.images.min() <= split.images.max() <= 1
        assert split.labels.dtype == np.int32
        assert set(split.labels) == set(range(classes))
        floats = split.floats(2, 5)
        assert floats.shape == (3, *shape)
        assert floats.dtype == np.float32
        assert 0 <= floats.min() < floats.max() <= 1


def test_the_held_out_split_keeps_the_shares_of_classes(case):
    for fraction in (0.3, 0.4):
        dataset = dataclasses.replace(case[1], valid_fraction=fraction).load()
        rest, out = (np.bincount(split.labels) for split in dataset[:2])
        np.testing.assert_allclose(out, fraction * (rest + out), atol=1)


def test_the_seed_decides_the_split_and_only_the_split(case):
    value = case[1]
    same, again, other = (dataclasses.replace(value, split_seed=n).load() for n in (2019, 2019, 2020))
    assert equal(same, again)
    assert equal(same, value.load())
    assert not np.array_equal(same.train.images, other.train.images)
    assert pairs(*same[:2]) == pairs(*other[:2])
    assert np.array_equal(same.test.images, other.test.images)
    assert same.digest() == again.digest() != other.digest()


def test_the_first_training_images_only(case):
    """They are split among themselves; the test set stays whole."""
    value = case[1]
    whole = value.load()
    count = len(whole.train.labels) + len(whole.valid.labels)
    few = dataclasses.replace(value, train_images=count - 5, valid_fraction=0.3).load()
    assert len(few.train.labels) + len(few.valid.labels) == count - 5
    assert set(pairs(*few[:2])) < set(pairs(*whole[:2]))
    np.testing.assert_array_equal(few.test.images, whole.test.images)
    refused(
        dataclasses.replace(value, train_images=count + 1), f"train_images={count + 1}", f"{count};"
    )


@pytest.mark.parametrize("make", DATA[1:])
def test_the_digest_is_of_the_pixels(make, tmp_path):
    one, same, other = (make(tmp_path / name, edit=name == "c").load() for name in "abc")
    assert one.digest() == same.digest() != other.digest()
    assert other.train.images.shape == one.train.images.shape


def test_a_value_is_told_in_full(case):
    """By its repr, by JSON, and by the name that a report gives it."""
    make, value = case
    assert eval(repr(value), vars(data)) == value
    told = json.loads(json.dumps(values.told(value)))
    assert getattr(data, told.pop(values.CLASS))(**told) == value
    names = {digits: "digits", mnist: "mnist", npz: "set.npz", npz_in_parts: "set.npz"}
    assert value.name == names.get(make, "pets")
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.train_images = 5


@pytest.mark.parametrize("cls", [data.Digits, data.TFDS, data.NPZ, data.Folder])
@pytest.mark.parametrize(
    ("knob", "given"),
    [
        *(("valid_fraction", fraction) for fraction in (0.0, 1.0, -0.5, np.nan)),
        *(("split_seed", seed) for seed in (-1, 2**32)),
        ("train_images", -1),
        ("size", -5),
        *(("test_fraction", fraction) for fraction in (0.0, 1.0)),
        ("test_seed", -1),
        ("path", "s3://bucket/set.npz"),
        ("data_dir", "gs://bucket/sets"),
    ],
)
def test_knobs_out_of_range_are_no_value(cls, knob, given):
    names = {field.name for field in dataclasses.fields(cls)}
    if knob not in names:
        return
    knobs = dict.fromkeys(names & {"name", "path"}, "set") | {knob: given}
    with pytest.raises(ValueError, match=f"^{knob}='?{given}'?: ") as error:
        cls(**knobs)
    assert "\n" not in str(error.value)


def test_a_path_takes_the_place_of_a_recipes_data(tmp_path):
    """With the knobs that both have."""
    like = data.TFDS("svhn", size=8, candidates="extra", valid_fraction=0.2, train_images=9)
    file = packed(tmp_path / "set.npz", fit())
    assert data.at_path(file, like) == data.NPZ(file, "extra", valid_fraction=0.2, train_images=9)
    place = str(tmp_path)
    shared = {"valid_fraction": 0.2, "train_images": 9}
    assert data.at_path(place, like) == data.Folder(place, 8, "extra", **shared)
    assert data.at_path(place, data.Digits(split_seed=3)) == data.Folder(place, split_seed=3)
    few = data.Folder("pets", 8, test_fraction=0.4)
    assert data.at_path(place, few) == dataclasses.replace(few, path=place)
    (tmp_path / "set.csv").write_text("")
    for path, words in (("none.npz", "there is no"), ("set.csv", "neither"), ("gs://a", "local")):
        place = path if "://" in path else str(tmp_path / path)
        with pytest.raises(ValueError, match=rf"^(?=.*{words})(?=.*{path}).*$"):
            data.at_path(place, like)


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
    digests = [dataset.digest() for dataset in (whole, *others)]
    assert len(set(digests)) == len(digests)
    # However the arrays lie in memory.
    turned = whole.train._replace(images=np.asfortranarray(whole.train.images))
    assert whole._replace(train=turned).digest() == whole.digest()


def test_the_digest_is_the_same_in_another_process():
    code = "from knn_jax import data; print(data.Digits().load().digest())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == data.Digits().load().digest()


def test_candidates_are_a_split_of_their_own(prepared, tmp_path):
    """Of a TFDS set, an .npz and a folder; otherwise they are the training images."""
    mnist = dataclasses.replace(prepared, candidates="test")
    dataset = mnist.load()
    np.testing.assert_array_equal(dataset.candidates.images, dataset.test.images)
    plain = prepared.load()
    assert plain.extra is None
    assert plain.candidates is plain.train
    rng = np.random.default_rng(0)
    arrays = {}
    for name, rows in (("train", 40), ("test", 10), ("more", 20)):
        arrays |= {f"{name}_images": rng.random((rows, 2, 2)), f"{name}_labels": np.arange(rows) % 5}
    file = data.NPZ(packed(tmp_path / "set.npz", arrays), candidates="more", valid_fraction=0.25)
    dataset = file.load()
    np.testing.assert_array_equal(dataset.candidates.labels, arrays["more_labels"])
    assert dataset.candidates.images.shape == (20, 2, 2, 1)
    for seed, part in enumerate(("train", "test", "more")):
        draw(tmp_path / "pets" / part, seed=seed)
    pets = data.Folder(str(tmp_path / "pets"), candidates="more", valid_fraction=0.2)
    more = data.Folder(str(tmp_path / "pets" / "more"), valid_fraction=0.2).load()
    assert pairs(pets.load().candidates) == pairs(*more[:3])
    refused(dataclasses.replace(mnist, candidates="extra"), "'extra'", "has the splits train, test")
    refused(dataclasses.replace(file, candidates="extra"), "'extra'", "no extra_images")
    refused(dataclasses.replace(pets, candidates="extra"), str(tmp_path / "pets" / "extra"))
    refused(dataclasses.replace(pets, path=f"{pets.path}/more"), "'more'", "needs folders train")
    packed(tmp_path / "set.npz", {**arrays, "more_labels": np.arange(20) % 6})
    refused(file, "candidate label 5 is no class of the training set")


# An .npz file


def numbers(split):
    """The numbers of such images."""
    return np.round(split.floats(0, len(split.labels))[:, 0, 0, 0] * 255).astype(int)


@pytest.mark.parametrize("channel", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("layout", ["one", "two"])
def test_npz_of_either_layout(tmp_path, layout, kind, channel):
    images, labels = numbered(100, kind, channel=channel)
    arrays = {"images": images, "labels": labels}
    if layout == "two":
        parts = {"train": slice(0, 70), "test": slice(70, 100)}
        arrays = {f"{part}_{k}": v[rows] for part, rows in parts.items() for k, v in arrays.items()}
    dataset = data.NPZ(packed(tmp_path / "set.npz", arrays)).load()
    seen = [numbers(split) for split in dataset[:3]]
    assert sorted(np.concatenate(seen)) == list(range(100))  # disjoint, and nothing lost
    for split, number in zip(dataset[:3], seen, strict=True):
        assert np.array_equal(split.labels, number % 5)
        assert split.floats(0, 4).dtype == np.float32
        assert split.floats(0, 4).shape == (4, 4, 3, 1)
    if layout == "two":
        assert np.array_equal(seen[2], np.arange(70, 100))  # the test set keeps its order
    assert dataset.classes == 5


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
    refused(data.NPZ(packed(tmp_path / "set.npz", arrays)), "set.npz", *words)


@pytest.mark.parametrize("value", [1.0000001, -1e-6])
def test_what_rounding_left_outside_is_clipped(tmp_path, value):
    file = packed(tmp_path / "set.npz", fit(images=bright(value)))
    dataset = data.NPZ(file, valid_fraction=0.2).load()
    assert min(split.images.min() for split in dataset[:3]) == 0
    assert max(split.images.max() for split in dataset[:3]) == max(np.float32(49 / 255), round(value))


def test_whole_numbers_may_be_floats(tmp_path):
    file = packed(tmp_path / "set.npz", fit(labels=(np.arange(50) % 5).astype(float)))
    assert data.NPZ(file, valid_fraction=0.2).load().train.labels.dtype == np.int32


def test_a_test_label_that_is_no_class_of_the_training_set(tmp_path):
    images, labels = numbered(50, "uint8", channel=True)
    arrays = parted(images=images, labels=labels)
    arrays |= {"train_images": images[labels < 4], "train_labels": labels[labels < 4]}
    refused(data.NPZ(packed(tmp_path / "set.npz", arrays)), "set.npz", "test label 4")


def test_missing_npz():
    refused(data.NPZ("nowhere.npz"), "no file", "nowhere.npz")


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04 cut short"])
def test_damaged_npz_is_named(tmp_path, content):
    file = tmp_path / "set.npz"
    file.write_bytes(content)
    refused(data.NPZ(str(file)), "set.npz")


# A set of TensorFlow Datasets


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A folder in which `mnist` has been prepared; copied, never used itself."""
    folder = tmp_path_factory.mktemp("tfds")
    prepare(folder, "train", "test")
    return folder


@pytest.fixture
def prepared(original, tmp_path):
    """A fresh copy of the prepared set."""
    shutil.copytree(original, tmp_path / "sets")
    return data.TFDS("mnist", str(tmp_path / "sets"), valid_fraction=0.25)


@pytest.mark.parametrize(
    ("name", "near"), [("minst", "mnist"), ("cifar01", "cifar10"), ("digit", "digits")]
)
def test_an_unknown_set_is_answered_with_the_nearest(offline, tmp_path, name, near):
    refused(data.TFDS(name, str(tmp_path)), repr(name), repr(near))


def test_an_unprepared_set_is_one_sentence_at_once(offline, tmp_path):
    start = time.perf_counter()
    build = f"tfds build fashion_mnist --data_dir={tmp_path}"
    refused(data.TFDS("fashion_mnist", str(tmp_path)), "not prepared", build)
    assert time.perf_counter() - start < 5
    assert not any(tmp_path.iterdir())


def test_tfds_set_is_read_without_tensorflow_or_network(offline, prepared, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # importing it raises
    dataset = prepared.load()
    assert dataset.train.images.dtype == np.uint8
    assert pairs(*dataset[:2]) == sorted((i.tobytes(), n) for i, n in pictures("train"))
    assert pairs(dataset.test) == sorted((i.tobytes(), n) for i, n in pictures("test"))


@pytest.mark.parametrize(("unlabelled", "rows"), [((), 20), (("test",), 15)])
def test_a_test_split_without_labels_gives_way_to_validation(tmp_path, unlabelled, rows):
    """ImageNet's, whose labels TFDS gives as -1."""
    prepare(tmp_path, *SIZES, unlabelled=unlabelled)
    dataset = data.TFDS("mnist", str(tmp_path), valid_fraction=0.25).load()
    assert len(dataset.test.labels) == rows


def test_the_second_load_reads_what_the_first_decoded(prepared, monkeypatch):
    said = []

    def track(items, what):
        said.append(what)
        return items

    first = prepared.load(track)
    assert [what.split()[-1] for what in said] == ["train", "test"]
    monkeypatch.setattr(tfds.core.DatasetBuilder, "as_data_source", None)  # calling it raises
    start = time.perf_counter()
    second = prepared.load(track)
    assert time.perf_counter() - start < 1
    assert equal(second, first)
    assert len(said) == 2


def test_resized_images_have_a_cache_of_their_own(prepared):
    full = prepared.load()
    small = dataclasses.replace(prepared, size=14).load()
    assert small.test.images.shape == (20, 14, 14, 1)
    assert np.array_equal(small.test.labels, full.test.labels)
    means = (split.images.mean((1, 2, 3)) for split in (small.test, full.test))
    np.testing.assert_allclose(*means, rtol=0.1)
    assert equal(prepared.load(), full)


# A folder


def test_a_folder_holds_its_images_by_class(tmp_path):
    """Every pixel, with the number of its class in the order of names, and nothing beside images."""
    draw(tmp_path / "train")
    draw(tmp_path / "test", seed=1)
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "cat" / "._01.png").write_text("no image")
    dataset = data.Folder(str(tmp_path), valid_fraction=0.2).load()
    for part, splits in (("train", dataset[:2]), ("test", dataset[2:3])):
        expected = [
            (np.asarray(Image.open(file)).tobytes(), label)
            for label, name in enumerate(sorted(CLASSES))
            for file in (tmp_path / part / name).glob("[0-9]*.png")
        ]
        assert pairs(*splits) == sorted(expected)


def test_the_first_images_of_a_folder_are_of_every_class(tmp_path):
    """As many of each as its share of all."""
    for part in ("train", "test"):
        draw(tmp_path / part)
    labels = data.Folder(str(tmp_path)).load().test.labels
    for count in (10, 20, 30, 40):
        expected = count / 40 * np.array(list(CLASSES.values()))
        np.testing.assert_allclose(np.bincount(labels[:count]), expected, atol=1)


def test_a_share_of_a_folder_is_held_out_for_tests(tmp_path):
    value = data.Folder(str(draw(tmp_path / "pets")), test_fraction=0.25, valid_fraction=0.2)
    dataset, other = value.load(), dataclasses.replace(value, test_seed=1).load()
    assert list(np.bincount(dataset.test.labels)) == [3, 5, 2]
    assert pairs(*dataset[:3]) == pairs(*other[:3])
    assert pairs(dataset.test) != pairs(other.test)


def test_images_of_a_folder_are_resized(tmp_path):
    draw(tmp_path, counts={"cat": 10, "dog": 10}, side=(40, 30))
    draw(tmp_path, counts={"owl": 10}, side=(1, 50))
    dataset = data.Folder(str(tmp_path), size=16, valid_fraction=0.2).load()
    assert dataset.train.images.shape[1:] == (16, 16, 1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_what_a_png_may_be(tmp_path, mode):
    """Two colours and a palette, and an alpha channel where all is opaque."""
    draw(tmp_path, counts={"cat": 8, "dog": 8})
    for file in tmp_path.glob("*/*.png"):
        Image.open(file).convert("RGB").convert(mode).save(file)
    grey = mode in ("1", "L", "LA")
    dataset = data.Folder(str(tmp_path), valid_fraction=0.2).load()
    assert dataset.train.images.shape[3] == (1 if grey else 3)
    assert set(np.unique(dataset.train.images)) <= {0, 255} or mode != "1"


def spoilt(root, what):
    """A folder of images with one fault, and words that the error must have."""
    draw(root)
    file = root / "dog" / "05.png"
    with Image.open(file) as image:
        image.load()
    if what == "no such folder":
        return root / "none", [str(root / "none")]
    if what == "no classes":
        return root / "cat", [str(root / "cat"), "classes"]
    if what == "one class":
        for name in ("dog", "owl"):
            shutil.rmtree(root / name)
        return root, [str(root), "one class", "cat"]
    if what == "an empty class":
        (root / "ant").mkdir()
        return root, [str(root / "ant")]
    if what == "no test folder":
        return draw(root / "set" / "train").parent, [str(root / "set" / "test")]
    if what == "a class without tests":
        for name in CLASSES:
            shutil.copytree(root / name, root / "set" / "train" / name)
        shutil.copytree(root / "cat", root / "set" / "test" / "cat")
        return root / "set", [str(root / "set" / "test"), "lacks the class dog"]
    if what == "a class of tests only":
        for part in ("train", "test"):
            draw(root / "set" / part)
        shutil.copytree(root / "cat", root / "set" / "test" / "ant")
        return root / "set", [str(root / "set" / "test"), "has the class ant"]
    if what == "no image":
        file.write_text("no image")
    elif what == "cut short":
        file.write_bytes(file.read_bytes()[:60])
    elif what == "another format":
        image.save(file, "gif")
    elif what == "another size":
        image.resize((7, 6)).save(file)
        return root, [str(file), "7x6", "5x6", "size="]
    elif what == "colours":
        image.convert("RGB").save(file)
    elif what == "transparent":
        pixels = np.full((6, 5, 4), 255, np.uint8)
        pixels[2, 3, 3] = 254
        Image.fromarray(pixels).save(file)
    elif what == "16 bits":
        Image.fromarray(np.zeros((6, 5), np.uint16)).save(file)
    return root, [str(file)]


@pytest.mark.parametrize(
    "what",
    [
        "no such folder",
        "no classes",
        "one class",
        "an empty class",
        "no test folder",
        "a class without tests",
        "a class of tests only",
        "no image",
        "cut short",
        "another format",
        "another size",
        "colours",
        "transparent",
        "16 bits",
    ],
)
def test_an_unfit_folder_is_one_line_that_names_the_file(tmp_path, what):
    root, words = spoilt(tmp_path / "pets", what)
    refused(data.Folder(str(root), valid_fraction=0.2), *words)
