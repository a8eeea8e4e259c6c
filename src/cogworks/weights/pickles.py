"""Reads tensors out of torch pickles (`.pt`, `.bin`) without executing anything.

SAT checkpoints are pickles that hold tensors and, often, an argparse Namespace or a random state. Python's unpickler
would import and call whatever a file names. This one knows tensors, storages, containers and plain values; every
other object becomes an inert placeholder that is listed and dropped.

Both formats of `torch.save` are read, memory-mapped: the zip archive and the older stream.
Source: torch/serialization.py and torch/_utils.py of PyTorch, which define the persistent ids and rebuild functions.
"""

from __future__ import annotations

import io
import logging
import mmap
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogworks.errors import WeightsError
from cogworks.weights.mapping import LazyTensor

logger = logging.getLogger(__name__)

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first object of the older format
_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_DTYPE_NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in _STORAGE_DTYPES.values()}
_ERRORS = (
    pickle.UnpicklingError, zipfile.BadZipFile, EOFError, KeyError, IndexError, ValueError, TypeError, AttributeError,
    struct.error, OSError, RuntimeError, UnicodeDecodeError, OverflowError, MemoryError, ImportError,
    SystemError,
)  # fmt: skip
"""What a damaged or hostile stream can raise inside an unpickler."""


class Inert:
    """Stands for an object that was not built. Takes every step of a pickle's construction and does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __new__(cls, *args: object, **kwargs: object) -> Inert:
        return super().__new__(cls)

    def __call__(self, *args: object, **kwargs: object) -> Inert:
        return self

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, item: object) -> None: ...

    def extend(self, items: object) -> None: ...

    def add(self, item: object) -> None: ...


@dataclass(eq=False)
class _Storage:
    """A run of numbers in the file. `offset` is known late in the older format."""

    dtype: torch.dtype
    numel: int
    offset: int = -1


@dataclass(frozen=True)
class _Dtype:
    """What a storage class stands for in a pickle."""

    dtype: torch.dtype


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a pickle describes it: a strided view of a storage."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_tensors(path: Path, *keys: str) -> dict[str, LazyTensor]:
    """The tensors of one state dict inside a pickle.

    Args:
        path: a file that `torch.save` wrote.
        keys: where the state dict is, outermost first, for example "module". Without keys it is the file itself.

    Returns:
        The tensors by name. Values that are no tensors are left out and logged.

    Raises:
        WeightsError: the file is missing, damaged, no pickle of torch, or does not hold a state dict at `keys`.
    """
    pickled = read_pickle(path)
    content: object = pickled.content
    for key in keys:
        if not isinstance(content, dict) or key not in content:
            held = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
            raise WeightsError(f"{path} has no entry {key!r} (it holds {held})")
        content = content[key]
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a pickled {_describe(content)}, expected tensors by name")
    if pickled.dropped:
        logger.info("%s: ignored pickled objects of type %s", path, ", ".join(pickled.dropped))
    tensors = {str(key): pickled.lazy(value) for key, value in content.items() if isinstance(value, StoredTensor)}
    others = [str(key) for key, value in content.items() if not isinstance(value, StoredTensor)]
    if others:
        logger.info("%s: left out %d entries that are no tensors: %s", path, len(others), ", ".join(others[:5]))
    if not tensors:
        raise WeightsError(f"{path} holds no tensors{' under ' + '/'.join(keys) if keys else ''}")
    return tensors


@dataclass(frozen=True)
class Pickled:
    """The content of a pickle.

    Attributes:
        content: containers, plain values, `StoredTensor`s and `Inert` placeholders.
        dropped: qualified names of what became placeholders, sorted.
        buffer: the whole file, memory-mapped; writing to a tensor changes memory only.
    """

    path: Path
    content: object
    dropped: tuple[str, ...]
    buffer: mmap.mmap

    def lazy(self, tensor: StoredTensor) -> LazyTensor:
        """A handle on one tensor. Raises WeightsError if it reaches beyond its storage or the file."""
        storage = tensor.storage
        last = sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
        reach = 0 if 0 in tensor.size else last + 1
        end = storage.offset + storage.numel * storage.dtype.itemsize
        bad = min((tensor.offset, *tensor.size, *tensor.stride), default=0) < 0
        if bad or tensor.offset + reach > storage.numel or storage.offset < 0 or end > len(self.buffer):
            raise WeightsError(f"{self.path} is damaged: a tensor of size {tensor.size} reaches beyond its data")
        return LazyTensor(torch.Size(tensor.size), storage.dtype, partial(_materialise, self.buffer, tensor))


def read_pickle(path: Path) -> Pickled:
    """Read a file of `torch.save` without executing anything in it.

    Raises:
        WeightsError: the file is missing, damaged or not a pickle of torch.
    """
    try:
        with path.open("rb") as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            content, dropped = (_read_zip if zipfile.is_zipfile(file) else _read_legacy)(file)
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist") from None
    except _ERRORS as error:
        raise WeightsError(
            f"{path} is damaged or not a file of torch.save ({type(error).__name__}: {error}); fetch it again"
        ) from None
    return Pickled(path, content, tuple(sorted(dropped)), buffer)


_MEMO_ROOM = 10**6


class _Unpickler(pickle.Unpickler):
    """An unpickler that can build containers, plain values and descriptions of tensors, and nothing else."""

    def __init__(self, file: Any, storages: Callable[[str, torch.dtype, int], _Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self._file = file
        self._storages = storages
        self.dropped: set[str] = set()

    def load(self) -> Any:
        """The next pickle of the file. One whose memo would take gigabytes, as a damaged byte can ask, is refused."""
        start = self._file.tell()
        for opcode, argument, position in pickletools.genops(self._file):
            if opcode.name in ("PUT", "LONG_BINPUT") and (argument or 0) > _MEMO_ROOM + (position or 0):
                raise pickle.UnpicklingError(f"it numbers an object {argument}, more than it can hold")
        self._file.seek(start)
        return super().load()

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((module, name))
        if known is not None:
            return known
        if module in ("torch", "torch.cuda", "torch.storage") and name in _STORAGE_DTYPES:
            return _Dtype(_STORAGE_DTYPES[name])
        if module == "torch" and name in _DTYPE_NAMES:
            return _DTYPE_NAMES[name]
        qualified = f"{module}.{name}"
        self.dropped.add(qualified)
        return type("Inert", (Inert,), {"__doc__": qualified})

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":  # the older format wraps the classes of pickled modules
            return pid[1]
        kind, dtype, key, _location, numel, *view = pid
        if kind != "storage" or not isinstance(dtype, _Dtype) or any(view):
            raise pickle.UnpicklingError(f"persistent id {kind!r} is not a storage that can be read")
        return self._storages(str(key), dtype.dtype, int(numel))


def _rebuild_tensor(storage: Any, offset: int, size: Any, stride: Any, *_rest: object) -> StoredTensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return StoredTensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def _rebuild_parameter(data: object, *_rest: object) -> object:
    return data


_KNOWN: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
}


def _read_zip(file: Any) -> tuple[object, set[str]]:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        main = next((name for name in entries if name.endswith("data.pkl")), None)
        if main is None:
            raise pickle.UnpicklingError("the archive has no data.pkl")
        root = main.removesuffix("data.pkl")
        stream = archive.read(main)
    by_key: dict[str, _Storage] = {}

    def storage(key: str, dtype: torch.dtype, numel: int) -> _Storage:
        if key not in by_key:
            entry = entries[f"{root}data/{key}"]
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size < numel * dtype.itemsize:
                raise pickle.UnpicklingError(f"storage {key} is too short or compressed")
            by_key[key] = _Storage(dtype, numel, _data_offset(file, entry))
        return by_key[key]

    unpickler = _Unpickler(io.BytesIO(stream), storage)
    return unpickler.load(), unpickler.dropped


def _data_offset(file: Any, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored entry begin: after its local header of 30 bytes, its name and its padding."""
    file.seek(entry.header_offset)
    header = file.read(30)
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return entry.header_offset + 30 + name_length + extra_length


def _read_legacy(file: Any) -> tuple[object, set[str]]:
    by_key: dict[str, _Storage] = {}

    def storage(key: str, dtype: torch.dtype, numel: int) -> _Storage:
        return by_key.setdefault(key, _Storage(dtype, numel))

    file.seek(0)
    dropped: set[str] = set()

    def load() -> Any:
        unpickler = _Unpickler(file, storage)
        content = unpickler.load()
        dropped.update(unpickler.dropped)
        return content

    if load() != _LEGACY_MAGIC:
        raise pickle.UnpicklingError("it does not begin as torch.save does")
    load()  # protocol version
    load()  # sizes of C types where it was written
    content = load()
    for key in load():
        stored = by_key[str(key)]
        (numel,) = struct.unpack("<q", file.read(8))
        if numel != stored.numel:
            raise pickle.UnpicklingError(f"storage {key} has {numel} numbers, expected {stored.numel}")
        stored.offset = file.tell()
        file.seek(numel * stored.dtype.itemsize, io.SEEK_CUR)
    return content, dropped


def _materialise(buffer: mmap.mmap, tensor: StoredTensor) -> Tensor:
    storage = tensor.storage
    if storage.numel == 0:
        return torch.empty(tensor.size, dtype=storage.dtype)
    flat = torch.frombuffer(buffer, dtype=storage.dtype, count=storage.numel, offset=storage.offset)
    return flat.as_strided(tensor.size, tensor.stride, tensor.offset)


def _describe(content: object) -> str:
    return (type(content).__doc__ or "object") if isinstance(content, Inert) else type(content).__name__
