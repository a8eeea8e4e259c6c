"""LoRA files: finding and opening them. What their keys mean is in `lora`.

A file is safetensors, or a pickle of torch that is read without executing anything. Its configuration is in the
metadata of the file (diffusers) or in `adapter_config.json` beside it (PEFT).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open

from cogworks.errors import WeightsError
from cogworks.weights.files import open_safetensors
from cogworks.weights.mapping import State
from cogworks.weights.pickles import StoredTensor, read_pickle
from cogworks.weights.sat_files import find_sat, is_sat
from cogworks.weights.storage import read_json

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
METADATA = "lora_adapter_metadata"
"""Key under which diffusers keeps PEFT's configuration, as JSON."""
FOLDED = "cogworks_lora"
"""Key of our own: what has to be undone in factors that hold their alpha; see `lora_write`."""

_NAMES = (DIFFUSERS_FILE, PEFT_FILE, "pytorch_lora_weights.bin", "adapter_model.bin")
_PICKLES = (".pt", ".pth", ".bin", ".ckpt")
_NESTED = ("module", "state_dict", "model")  # where training programs put the tensors


@dataclass(frozen=True)
class OpenedLoRA:
    """What is in a file.

    Attributes:
        path: the file, for messages.
        state: the tensors.
        numbers: plain numbers by name, among which an alpha may be.
        config: PEFT's configuration, without prefix; empty if there is none.
        folded: what `FOLDED` holds; empty if there is nothing.
    """

    path: Path
    state: State
    numbers: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    folded: Mapping[str, Any] = field(default_factory=dict)


def find_lora(path: str | Path) -> Path:
    """The file that is meant by a file or a folder.

    Raises:
        WeightsError: nothing is there, or a folder holds none or several.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=1)
        raise WeightsError(f"there is no LoRA at {path}" + (f"; did you mean {path.parent / near[0]}?" if near else ""))
    named = [path / name for name in _NAMES if (path / name).is_file()]
    if named:
        return named[0]
    if is_sat(path):
        return find_sat(path).transformer
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        held = f"several files ({', '.join(file.name for file in found[:3])})" if found else "no LoRA"
        raise WeightsError(f"{path} holds {held}; name the file")
    return found[0]


def open_lora(path: str | Path) -> OpenedLoRA:
    """Open a file, or the one that a folder holds. No tensor is read.

    Raises:
        WeightsError: it is missing, damaged or no weight file.
    """
    path = find_lora(path)
    if path.suffix in _PICKLES:
        return _open_pickle(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path} is no weight file: a LoRA ends in .safetensors, {', '.join(_PICKLES)}")
    state = open_safetensors(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    config = _object(path, METADATA, metadata.get(METADATA))
    if path.name == PEFT_FILE and not config:
        config = _peft_config(path)
    return OpenedLoRA(path, state, config=_without_prefix(config), folded=_object(path, FOLDED, metadata.get(FOLDED)))


def _open_pickle(path: Path) -> OpenedLoRA:
    pickled = read_pickle(path)
    content = pickled.content
    folded = content.get(FOLDED) if isinstance(content, dict) else None
    for key in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds no tensors by name")
    tensors = {str(key): pickled.lazy(value) for key, value in content.items() if isinstance(value, StoredTensor)}
    numbers = {
        str(key): float(value)
        for key, value in content.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    config = _peft_config(path) if path.stem == Path(PEFT_FILE).stem else {}
    return OpenedLoRA(path, tensors, numbers, config, _object(path, FOLDED, folded))


def _peft_config(path: Path) -> dict[str, Any]:
    config = path.with_name(PEFT_CONFIG)
    return read_json(config) if config.is_file() else {}


def _without_prefix(config: Mapping[str, Any]) -> dict[str, Any]:
    """diffusers marks each entry with the component that it is for."""
    return {key.removeprefix("transformer."): value for key, value in config.items()}


def _object(path: Path, key: str, text: object) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        content = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is damaged: its entry {key} is no JSON object")
    return content
