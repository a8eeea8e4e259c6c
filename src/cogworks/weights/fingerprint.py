"""One number for the weights of a model: equal where a load would read the same bytes.

The hash of a file is remembered by its path, size and time of change, so that gigabytes are read once. The memory is
a cache: where it is damaged or cannot be written, files are read again. Processes that write it at the same time may
lose each other's entries, never leave half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path, PurePath
from typing import Any, Literal

from cogworks.config.places import cache_folder
from cogworks.errors import WeightsError
from cogworks.weights.files import DIFFUSERS_STEM, TRANSFORMERS_STEM, find_weights
from cogworks.weights.sat_files import find_sat
from cogworks.weights.source import ModelFolder
from cogworks.weights.spiece import SPIECE
from cogworks.weights.storage import read_json, write_json
from cogworks.weights.variant_files import VARIANT_FILE

MEMORY = "weight-hashes.json"
BLOCK_BYTES = 2**22
_STEMS = {"transformer": DIFFUSERS_STEM, "vae": DIFFUSERS_STEM, "text_encoder": TRANSFORMERS_STEM}
_PART_CONFIGS = ("scheduler/scheduler_config.json", *(f"{part}/config.json" for part in _STEMS))

_SHA256 = re.compile(r"[0-9a-f]{64}")

Memory = dict[str, dict[str, Any]]


def weights_hash(folder: ModelFolder) -> str:
    """The SHA-256, in hex, over all files that a load of `folder` reads: relative name and content of each.

    Where the folder is and what it is called makes no difference; neither do files that a load does not read.

    Raises:
        WeightsError: the folder lacks a file that a load would read, or one cannot be read.
    """
    memory = _Memory(cache_folder() / MEMORY)
    total = hashlib.sha256()
    root = _root(folder)
    names = {_name(path, root): path for path in (*weight_files(folder), *_config_files(folder))}
    for name, path in sorted(names.items()):
        total.update(f"{name.as_posix()}\0{memory.hash_of(path)}\n".encode())
    memory.save()
    return total.hexdigest()


def part_hash(folder: ModelFolder, part: Literal["vae", "text_encoder"]) -> str:
    """The SHA-256, in hex, over the weights of one network: equal for every model that holds this file of it.

    Raises:
        WeightsError: the folder does not hold it, or a file cannot be read.
    """
    if folder.layout == "sat":
        found = find_sat(folder.path)
        place = found.vae if part == "vae" else found.text_encoder
        if place is None:
            raise WeightsError(f"{folder.path} has no {part}")
        files = [place] if part == "vae" else _with_shards(place, part, folder)
    else:
        files = _with_shards(folder.part(part), part, folder)
    memory, total = _Memory(cache_folder() / MEMORY), hashlib.sha256()
    for path in files:
        if path.suffix != ".json":  # an index holds nothing that the shards do not
            total.update(f"{memory.hash_of(path)}\n".encode())
    memory.save()
    return total.hexdigest()


def weight_files(folder: ModelFolder) -> list[Path]:
    """The files with tensors that a load of `folder` reads, their indices included. Parts it lacks are left out.

    Raises:
        WeightsError: the transformer is not there, or an index lists a file that is not.
    """
    if folder.layout == "sat":
        files = find_sat(folder.path)
        found = [path for path in (files.transformer, files.vae) if path is not None]
        return found if files.text_encoder is None else found + _with_shards(files.text_encoder, "text_encoder", folder)
    parts = [part for part in _STEMS if part == "transformer" or _holds_weights(folder.part(part))]
    return [path for part in parts for path in _with_shards(folder.part(part), part, folder)]


def _name(path: Path, root: Path) -> PurePath:
    """The name of a file in its model, also where another model has it."""
    return path.relative_to(root) if path.is_relative_to(root) else PurePath(path.parent.name, path.name)


def _holds_weights(place: Path) -> bool:
    return any(path.suffix in (".safetensors", ".bin") for path in place.glob("*"))


def _with_shards(place: Path, part: str, folder: ModelFolder) -> list[Path]:
    found = find_weights(place, _STEMS[part], folder.file_variant)
    if found.suffix != ".json":
        return [found]
    listed = read_json(found).get("weight_map")
    shards = [place / str(name) for name in sorted(set(listed.values()))] if isinstance(listed, dict) else []
    missing = [path for path in shards if not path.is_file()]
    if missing:
        raise WeightsError(f"{missing[0]} is missing: {found.name} lists it. Fetch it and try again")
    return [found, *shards]


def _config_files(folder: ModelFolder) -> list[Path]:
    """Configuration and tokenizer, as far as they are there."""
    root = _root(folder)
    if folder.layout == "sat":
        text = find_sat(folder.path).text_encoder
        paths = [root / VARIANT_FILE, *((text / name for name in ("config.json", SPIECE)) if text else ())]
    else:
        paths = [root / "model_index.json", root / VARIANT_FILE]
        paths += [folder.part(Path(name).parent.name) / Path(name).name for name in _PART_CONFIGS]
        tokenizer = folder.part("tokenizer")
        paths.append(tokenizer / (SPIECE if (tokenizer / SPIECE).is_file() else "tokenizer.json"))
    return [path for path in paths if path.is_file()]


def _root(folder: ModelFolder) -> Path:
    return find_sat(folder.path).root if folder.layout == "sat" else folder.path


class _Memory:
    """Hashes of files, as they were when they were read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new: Memory = {}
        self._known = self._read()

    def hash_of(self, path: Path) -> str:
        try:
            real = path.resolve(strict=True)
            if real.parent.name == "blobs" and _SHA256.fullmatch(real.name):
                return real.name  # the hub's cache names large files by their SHA-256
            before = _state(real)
            known = self._known.get(str(real))
            if known is not None and all(known.get(key) == value for key, value in before.items()):
                return str(known["sha256"])
            digest = _read_and_hash(real)
            if _state(real) == before:  # else it was written to meanwhile
                self._new[str(real)] = {**before, "sha256": digest}
        except OSError as error:
            raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from None
        return digest

    def save(self) -> None:
        """Add what is new to what is in the file by now, and forget files that are gone."""
        if not self._new:
            return
        entries = {path: entry for path, entry in {**self._read(), **self._new}.items() if os.path.exists(path)}
        with contextlib.suppress(OSError):
            write_json(self._path, {"files": entries})

    def _read(self) -> Memory:
        try:
            files = json.loads(self._path.read_text(encoding="utf-8"))["files"]
            return {
                path: entry for path, entry in files.items() if len(entry["sha256"]) == hashlib.sha256().digest_size * 2
            }
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}


def _state(path: Path) -> dict[str, int]:
    found = path.stat()
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}


def _read_and_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
