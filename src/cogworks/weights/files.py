"""Weight files: finding, reading and writing them.

Reading is lazy: names, shapes and dtypes come from headers, values from the memory-mapped file when they are asked
for.
Layouts: one file, or shards with an index (`NAME.safetensors.index.json`), each also with the name of a precision in
it (`NAME.fp16.safetensors`), as diffusers and transformers write them; pickles (`NAME.bin`, also in shards) are read,
never written.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cogworks.errors import WeightsError
from cogworks.weights.mapping import LazyTensor, State
from cogworks.weights.pickles import read_tensors
from cogworks.weights.storage import read_json, replacing, write_json

DIFFUSERS_STEM = "diffusion_pytorch_model"
TRANSFORMERS_STEM = "model"
SHARD_BYTES = 5_000_000_000
"""Largest file that is written; more goes into shards."""

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def find_weights(folder: Path, stem: str, file_variant: str | None = None) -> Path:
    """The file that holds, or the index that lists, the weights of one component.

    Args:
        folder: for example `.../transformer`.
        stem: name of the file without its endings, `diffusion_pytorch_model` or `model`.
        file_variant: the precision in the file name, for example "fp16"; None for the files without one.

    Raises:
        WeightsError: there is no such file.
    """
    mark = f".{file_variant}" if file_variant else ""
    pickle_stem = "pytorch_model" if stem == TRANSFORMERS_STEM else stem
    names = (
        f"{stem}.safetensors.index{mark}.json",
        f"{stem}{mark}.safetensors",
        f"{pickle_stem}.bin.index{mark}.json",
        f"{pickle_stem}{mark}.bin",
    )
    for name in names:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path.name for path in folder.glob("*.safetensors")) if folder.is_dir() else []
    hint = f"; it has {', '.join(others[:3])}" if others else ""
    raise WeightsError(f"{folder} has no weights: expected {names[1]} or {names[0]}{hint}")


def open_weights(path: Path) -> State:
    """The tensors of what `find_weights` found.

    Raises:
        WeightsError: a shard is missing, or a file is damaged.
    """
    match path.suffix:
        case ".json":
            return _open_shards(path)
        case ".bin":
            return read_tensors(path)
    return open_safetensors(path)


def open_safetensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one file. Raises WeightsError if it is missing or damaged."""
    try:
        handle, passing = safe_open(path, framework="pt"), _Passing(path)
        return {key: _lazy(handle, passing, key, path) for key in handle.keys()}  # noqa: SIM118  it is not a dict
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged or not a safetensors file ({error}); fetch it again") from None


class _Passing:
    """Reads tensors of a file for who copies them at once.

    What was read of a map stays in memory as long as the map. So this one is made anew after each eighth of the file.
    """

    def __init__(self, path: Path) -> None:
        found = path.stat()
        self.path, self.num_bytes, self._modified = path, found.st_size, found.st_mtime_ns
        self._handle: Any = None
        self._read = 0

    def read(self, key: str) -> Tensor:
        if self._handle is None or self._read > self.num_bytes // 8:
            self._handle, self._read = self._open(), 0
        tensor = self._handle.get_tensor(key)
        self._read += tensor.nbytes
        return tensor

    def _open(self) -> Any:
        """A new map. Raises WeightsError if it would be of another file."""
        if not self.path.exists() or self.path.stat().st_mtime_ns != self._modified:
            raise WeightsError(f"{self.path} was changed or removed while it was read; try again")
        return safe_open(self.path, framework="pt")


def _lazy(handle: Any, passing: _Passing, key: str, path: Path) -> LazyTensor:
    header = handle.get_slice(key)
    name = header.get_dtype()
    if name not in _DTYPES:
        raise WeightsError(f"{path} holds {key} as {name}, which is not a number format that can be read")
    shape, dtype = torch.Size(header.get_shape()), _DTYPES[name]
    return LazyTensor(shape, dtype, partial(handle.get_tensor, key), partial(passing.read, key))


def _open_shards(index: Path) -> dict[str, LazyTensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise WeightsError(f"{index} has no weight_map: it is not an index of weight files")
    shards = {}
    for name in sorted(set(weight_map.values())):
        path = index.parent / name
        if Path(name).name != name:
            raise WeightsError(f"{index} names {name}, which is not beside it")
        if not path.is_file():
            raise WeightsError(f"{path} is missing: {index.name} lists it. Fetch it and try again")
        shards[name] = read_tensors(path) if path.suffix == ".bin" else open_safetensors(path)
    for key, name in weight_map.items():
        if key not in shards[name]:
            raise WeightsError(f"{index.parent / name} does not hold {key}, which {index.name} says it does")
    return {key: shards[name][key] for key, name in weight_map.items()}


def write_weights(folder: Path, stem: str, state: State, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write `state` as one file, or as shards of up to `shard_bytes` with an index. Reads one shard at a time."""
    shards = _plan_shards(state, shard_bytes)
    if len(shards) == 1:
        write_safetensors(folder / f"{stem}.safetensors", state)
        return
    weight_map = {}
    for number, keys in enumerate(shards, start=1):
        name = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / name, {key: state[key] for key in keys})
        weight_map.update(dict.fromkeys(keys, name))
    total = sum(tensor.num_bytes for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / f"{stem}.safetensors.index.json", index)


def _plan_shards(state: State, shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for key, tensor in state.items():
        if shards[-1] and filled + tensor.num_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += tensor.num_bytes
    return shards


def write_safetensors(path: Path, state: State) -> None:
    """Write one file; it appears under its name when it is complete."""
    tensors = {key: tensor.read().contiguous() for key, tensor in state.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
