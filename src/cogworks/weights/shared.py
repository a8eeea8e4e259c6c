"""Parts that a folder in the layout of diffusers has in common with another one: one copy on disk.

A file `shared.json` beside `model_index.json`, `{"parts_from": "../tiny"}`, names the other folder, from this one.
A part that is not here is there. Only Cogworks reads it; `cogworks convert` writes all parts, for others.
"""

from __future__ import annotations

from pathlib import Path

from cogworks.errors import WeightsError
from cogworks.weights.storage import read_json

SHARED_FILE = "shared.json"


def part_of(folder: Path, part: str) -> Path:
    """Where a part of a model is, whether or not it is there.

    Args:
        folder: the root of the model.
        part: name of a subfolder, for example "vae".

    Raises:
        WeightsError: `shared.json` is damaged or names no folder.
    """
    own = folder / part
    file = folder / SHARED_FILE
    if own.is_dir() or not file.is_file():
        return own
    other = read_json(file).get("parts_from")
    if not isinstance(other, str) or not (folder / other).is_dir():
        raise WeightsError(f"{file} must name under parts_from the folder that has the other parts, got {other!r}")
    return (folder / other).resolve() / part
