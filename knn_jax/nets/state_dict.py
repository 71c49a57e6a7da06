"""A PyTorch state dict as arrays, read without PyTorch.

python -m knn_jax.nets.state_dict mnist_basic.h5 mnist_basic_weights.npz

makes the .npz that a defense's `weights` takes of a file that `torch.save` wrote, whatever its suffix.
"""

import io
import math
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from knn_jax.workdir.files import whole

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file from before PyTorch 1.6
DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
WRAPPER = "basic_net."  # what the authors' adversarially trained networks have before each name
DAMAGED = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, OSError, MemoryError),
    *(ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError),
)


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(file: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a state dict by name, in its order, in the layouts of PyTorch.

    No code of the file is run: a pickle that names anything but tensors and ordered dicts is refused.
    Raises ValueError for a file that cannot be read or holds no state dict.
    """
    try:
        content = Path(file).expanduser().read_bytes()
        found, storages = (_zipped if content[:2] == b"PK" else _legacy)(content)
        if not isinstance(found, dict):
            raise ValueError(f"it holds {type(found).__name__} where a dict is expected")
        return {name: _array(tensor, storages) for name, tensor in dict(found).items()}
    except DAMAGED as error:
        raise ValueError(f"{file} is no state dict of PyTorch: {error}") from error


def write(file: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the arrays to an .npz file."""
    with whole(Path(file).expanduser()) as scratch, scratch.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def _legacy(content: bytes) -> tuple[object, dict[str, bytes]]:
    """Arrays of a file from before PyTorch 1.6: pickles, then each storage's size and bytes."""
    stream = io.BytesIO(content)
    magic, protocol, system = (_Reader(stream).load() for _ in range(3))
    if magic != MAGIC or protocol != 1001 or not system["little_endian"]:
        raise ValueError("it does not begin as torch.save begins a file of a little-endian machine")
    reader = _Reader(stream)
    found, keys, storages = reader.load(), _Reader(stream).load(), {}
    for key in keys:
        [size] = struct.unpack("<q", stream.read(8))
        told = reader.storages.get(key)
        if told is None or size != told.size:
            raise ValueError(f"no tensor has its storage {key} of {size} numbers")
        storages[key] = stream.read(size * told.dtype.itemsize)
    return found, storages


def _zipped(content: bytes) -> tuple[object, dict[str, bytes]]:
    """Arrays of a file since PyTorch 1.6: a zip of one pickle and a member for each storage."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if name is None:
            raise ValueError("it is an archive without a data.pkl")
        folder = name.removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("it is of a big-endian machine")
        reader = _Reader(io.BytesIO(archive.read(name)))
        found = reader.load()
        return found, {key: archive.read(f"{folder}data/{key}") for key in reader.storages}


class _Reader(pickle.Unpickler):
    """Makes `_Tensor`s of a pickle, and knows what storages they are of."""

    def __init__(self, stream):
        super().__init__(stream)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module, name):
        if module == "torch" and name in DTYPES:
            return np.dtype(DTYPES[name])
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no tensor needs")

    def persistent_load(self, pid):
        kind, dtype, key, _, size = pid[:5]
        if kind != "storage" or not isinstance(dtype, np.dtype) or pid[5:] not in ((), (None,)):
            raise pickle.UnpicklingError(f"it refers to {pid!r}, which is no storage")
        return self.storages.setdefault(key, _Storage(dtype, key, size))


def _tensor(storage, offset, shape, strides, *_):
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError(f"it has a tensor of a {type(storage).__name__}, no storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _array(tensor: object, storages: dict[str, bytes]) -> np.ndarray:
    if not isinstance(tensor, _Tensor):
        raise ValueError(f"it holds {type(tensor).__name__} where a tensor is expected")
    (dtype, key, size), offset, shape, strides = tensor
    flat = np.frombuffer(storages[key], dtype)
    reach = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    inside = len(flat) == size and min(offset, *shape, *strides, 0) == 0 and offset + reach < size
    if not inside or math.prod(shape) > size:
        raise ValueError(f"a tensor of shape {shape} reaches beyond its storage of {len(flat)} numbers")
    steps = [step * flat.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(flat[offset:], shape, steps).copy()


def main() -> None:
    """Converts the first file into the second; an error that the user can mend is one line."""
    try:
        _convert()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _convert() -> None:
    if len(sys.argv) != 3:
        raise ValueError("give two files: python -m knn_jax.nets.state_dict FROM.h5 TO.npz")
    arrays = {name.removeprefix(WRAPPER): array for name, array in read(sys.argv[1]).items()}
    write(sys.argv[2], arrays)
    print(f"{sys.argv[2]}: {', '.join(f'{name} {array.shape}' for name, array in arrays.items())}")


if __name__ == "__main__":
    main()
