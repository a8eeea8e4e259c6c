"""`cogworks convert`: a checkpoint from one layout to another."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cogworks.cli.terminal import AsJson, result, say


def convert(source: str, target: Path, /, *, to: Literal["diffusers", "sat"], as_json: AsJson = False) -> None:
    """Rewrite a checkpoint in the layout of diffusers or of SAT, tensor by tensor and bit for bit.

    Prints the path of the new folder. Nothing is left of it if something goes wrong.

    Args:
        source: What holds the model: a folder in either layout, a Hugging Face id or a bundled name.
        target: The folder to write; it must be new or empty.
        to: Layout of the new folder.
        as_json: Print one JSON object instead of the path.
    """
    from cogworks.weights.convert import convert_folder

    say(f"converting {source} to the layout of {to}")
    convert_folder(source, target, to)
    result(str(target), {"source": source, "path": str(target), "layout": to}, as_json=as_json)
