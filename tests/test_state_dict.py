"""PyTorch's files read without PyTorch: both of its formats, written by hand, and what is refused."""

import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from knn_jax.nets import state_dict

FLAT = np.arange(12, dtype="<f4")
COUNTS = np.array([3, 1, 4], "<i8")
WANTED = {
    "basic_net.conv1.weight": FLAT[2:8].reshape(2, 3),
    "basic_net.conv1.turned": FLAT.reshape(3, 4).T,
    "basic_net.counts": COUNTS,
    "basic_net.scale": FLAT[5].reshape(()),
}


class Storage:
    def __init__(self, key, array):
        self.key, self.array = key, array


class Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.arguments = storage, offset, shape, strides, False, OrderedDict()

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


def tensors():
    """Slices, a transpose, a scalar, and two tensors of one storage."""
    numbers, counts = Storage("10", FLAT), Storage("9", COUNTS)
    found = OrderedDict(
        zip(
            WANTED,
            (
                Tensor(numbers, 2, (2, 3), (3, 1)),
                Tensor(numbers, 0, (4, 3), (1, 4)),
                Tensor(counts, 0, (3,), (1,)),
                Tensor(numbers, 5, (), ()),
            ),
            strict=True,
        )
    )
    found._metadata = OrderedDict(version=1)  # as modules have it, by BUILD
    return found


@pytest.fixture
def pickled(monkeypatch):
    """Pickles as torch.save does: tensors by name of PyTorch's function, storages by reference."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    kinds = {"<f4": "FloatStorage", "<i8": "LongStorage"}
    for name in kinds.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2(*arguments):
        raise AssertionError

    _rebuild_tensor_v2.__module__ = utils.__name__
    _rebuild_tensor_v2.__qualname__ = _rebuild_tensor_v2.__name__
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Storage):
                kind = getattr(torch, kinds[obj.array.dtype.str])
                return "storage", kind, obj.key, "cuda:0", obj.array.size, *self.views
            return None

    def write(found, views=()):
        stream = io.BytesIO()
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "torch", torch)
            patch.setitem(sys.modules, "torch._utils", utils)
            pickler = Pickler(stream, 2)
            pickler.views = views
            pickler.dump(found)
        return stream.getvalue()

    return write


def legacy(body, storages, system=True):
    head = (state_dict.MAGIC, 1001, {"protocol_version": 1001, "little_endian": system})
    parts = [*(pickle.dumps(part, 2) for part in head), body, pickle.dumps(list(storages), 2)]
    for array in storages.values():
        parts += [struct.pack("<q", array.size), array.tobytes()]
    return b"".join(parts)


def zipped(body, storages):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("mnist/data.pkl", body)
        archive.writestr("mnist/byteorder", "little")
        for key, array in storages.items():
            archive.writestr(f"mnist/data/{key}", array.tobytes())
    return stream.getvalue()


STORAGES = {"9": COUNTS, "10": FLAT}


@pytest.mark.parametrize("form", ["legacy", "zipped"])
def test_both_formats_give_the_arrays_by_name_and_in_order(tmp_path, pickled, form):
    file = tmp_path / "basic.h5"
    body = pickled(tensors(), (None,) if form == "legacy" else ())
    file.write_bytes((legacy if form == "legacy" else zipped)(body, STORAGES))
    found = state_dict.read(file)
    assert list(found) == list(WANTED)
    for name, array in WANTED.items():
        assert found[name].dtype == array.dtype
        assert found[name].flags.c_contiguous
        np.testing.assert_array_equal(found[name], array)


def test_the_command_writes_what_weights_are_read_from(tmp_path, pickled, monkeypatch, capsys):
    source, target = tmp_path / "at.h5", tmp_path / "at.npz"
    source.write_bytes(legacy(pickled(tensors()), STORAGES))
    monkeypatch.setattr(sys, "argv", ["state_dict", str(source), str(target)])
    state_dict.main()
    with np.load(target) as found:
        assert list(found) == ["conv1.weight", "conv1.turned", "counts", "scale"]
        np.testing.assert_array_equal(found["conv1.turned"], WANTED["basic_net.conv1.turned"])
    assert "conv1.weight (2, 3)" in capsys.readouterr().out
    source.write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(SystemExit):
        state_dict.main()
    error = capsys.readouterr().err
    assert "at.h5 is no state dict" in error
    assert error.count("\n") == 1


class Harmful:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"a": Harmful()}, "builtins.print|__builtin__.print"),
        ({"a": 3, "b": Tensor(Storage("10", FLAT), 0, (2,), (1,))}, "holds int"),
        ([1, Tensor(Storage("10", FLAT), 0, (2,), (1,))], "holds list"),
        ({"a": Tensor(Storage("10", FLAT), 7, (2, 3), (3, 1))}, "beyond"),
        ({"a": Tensor(Storage("10", FLAT), -1, (2,), (1,))}, "beyond"),
        ({"a": Tensor(Storage("10", FLAT), 4, (3,), (-1,))}, "beyond"),
        ({"a": Tensor(Storage("10", FLAT), 0, (10**12,), (0,))}, "beyond"),
        ({"a": Tensor(Storage("10", FLAT[:11]), 0, (2,), (1,))}, "12 numbers"),
        ({"a": Tensor(FLAT.tolist(), 0, (2,), (1,))}, "no storage"),
    ],
)
@pytest.mark.parametrize("form", [legacy, zipped])
def test_what_is_no_state_dict_is_refused_and_not_run(tmp_path, pickled, capsys, form, found, words):
    file = tmp_path / "bad.h5"
    file.write_bytes(form(pickled(found), {"10": FLAT}))
    with pytest.raises(ValueError, match=rf"bad\.h5 is no state dict.*({words})"):
        state_dict.read(file)
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize("form", [legacy, zipped])
def test_a_damaged_file_is_refused(tmp_path, pickled, form):
    """Cut anywhere, of a big-endian machine, another archive, or not there."""
    content = form(pickled(tensors()), STORAGES)
    file = tmp_path / "cut.h5"
    for end in range(0, len(content), 7):
        file.write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"cut\.h5 is no state dict"):
            state_dict.read(file)
    file.write_bytes(legacy(pickled(tensors()), STORAGES, system=False))
    with pytest.raises(ValueError, match="little-endian"):
        state_dict.read(file)
    np.savez(tmp_path / "other.npz", a=FLAT)
    with pytest.raises(ValueError, match="without a data"):
        state_dict.read(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"none\.h5 is no state dict"):
        state_dict.read(tmp_path / "none.h5")
