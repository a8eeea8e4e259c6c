"""What a user typed as a model, to a folder on this machine.

A bundled name (`tiny`), a published name (`cogvideox-5b`) or hub id (`THUDM/CogVideoX-5b`), or a folder in the layout
of diffusers or of SAT. A folder never causes a network access. Knows no tensors.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cogworks.config.variants import VARIANTS
from cogworks.errors import WeightsError
from cogworks.weights.hub import HubModel
from cogworks.weights.sat_files import is_sat
from cogworks.weights.shared import part_of

ASSETS = Path(__file__).resolve().parent.parent / "assets"
"""Folder of the bundled models."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class ModelFolder:
    """A model on this machine.

    Attributes:
        path: its root.
        layout: whose files they are.
        file_variant: the precision in the names of its weight files, for example "fp16"; None for none.
    """

    path: Path
    layout: Literal["diffusers", "sat"]
    file_variant: str | None = None

    def part(self, name: str) -> Path:
        """Where a part is that has a subfolder in the layout of diffusers; another model may hold it (`shared`)."""
        return part_of(self.path, name)


def resolve(
    source: str | Path,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    file_variant: str | None = None,
) -> ModelFolder:
    """Find a model, fetching it from the hub if need be.

    Args:
        source: a name, a hub id or a folder. A bundled or published name wins over a folder of the same name;
            write `./tiny` for the folder.
        revision: branch, tag or commit on the hub.
        local_files_only: use the hub's cache and no network.
        file_variant: read the weight files that carry this precision in their name.

    Raises:
        WeightsError: there is no such model, or it cannot be fetched.
    """
    name = str(source)
    if isinstance(source, str) and name in VARIANTS:
        hub_id = VARIANTS[name].hub_id
        if hub_id is None:
            return _bundled(name, file_variant)
        return _from_hub(HubModel(hub_id, revision, file_variant), local_files_only)
    folder = Path(source).expanduser()
    if folder.exists():
        return open_folder(folder, file_variant)
    if isinstance(source, str) and is_hub_id(name):
        return _from_hub(HubModel(name, revision, file_variant), local_files_only)
    if isinstance(source, Path) or "/" in name or "\\" in name:
        raise WeightsError(f"there is no folder {name}{_folder_hint(folder)}")
    nearest = _nearest(name)
    hint = f"did you mean {nearest}?" if nearest else f"the names are {', '.join(VARIANTS)}"
    raise WeightsError(f"there is no model or folder called {name}; {hint}")


def download(name: str, *, revision: str | None = None, file_variant: str | None = None) -> ModelFolder:
    """Fetch all files of a model that a load reads. What is here already is not fetched again.

    Args:
        name: bundled or published name, or hub id.
        revision: branch, tag or commit on the hub.
        file_variant: fetch the weight files that carry this precision in their name.

    Raises:
        WeightsError: there is no such model, it is a folder on this machine, it cannot be fetched, or the hub does not
            hold all of its weights.
    """
    from cogworks.weights.fingerprint import weight_files

    if name not in VARIANTS and Path(name).expanduser().exists():
        raise WeightsError(f"{name} is on this machine already: only models of the hub are downloaded")
    folder = resolve(name, revision=revision, file_variant=file_variant)
    weight_files(folder)
    return folder


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form of a hub id."""
    return _HUB_ID.fullmatch(name) is not None and not name.startswith(".")


def open_folder(folder: Path, file_variant: str | None = None) -> ModelFolder:
    """A local folder, its layout recognised by what is in it.

    Raises:
        WeightsError: it is neither a diffusers nor a SAT folder.
    """
    if (folder / "model_index.json").is_file():
        return ModelFolder(folder, "diffusers", file_variant)
    if is_sat(folder):
        return ModelFolder(folder, "sat", file_variant)
    raise WeightsError(
        f"{folder} is not a model: a diffusers folder has model_index.json, a SAT folder has transformer/latest"
    )


def _bundled(name: str, file_variant: str | None) -> ModelFolder:
    folder = ASSETS / name
    if not folder.is_dir():
        raise WeightsError(f"the bundled model {name} is missing from this installation ({folder}); install again")
    return open_folder(folder, file_variant)


def _from_hub(model: HubModel, local_files_only: bool) -> ModelFolder:
    try:
        path = model.find() if local_files_only else model.fetch()
    except WeightsError as error:
        nearest = _nearest(model.hub_id)
        if nearest in (None, model.hub_id):
            raise
        raise WeightsError(f"{error}. Did you mean {nearest}?") from error
    return open_folder(path, model.file_variant)


def _nearest(typed: str) -> str | None:
    """The known name or hub id that looks most like `typed`."""
    known = {variant.hub_id.lower(): variant.hub_id for variant in VARIANTS.values() if variant.hub_id}
    if "/" not in typed:
        known = {name.lower(): name for name in VARIANTS}
    close = difflib.get_close_matches(typed.lower(), known, n=1, cutoff=0.8 if "/" in typed else 0.5)
    return known[close[0]] if close else None


def _folder_hint(folder: Path) -> str:
    """The folder beside it that has almost the same name."""
    if not folder.parent.is_dir():
        return ""
    beside = [path.name for path in folder.parent.iterdir() if path.is_dir()]
    close = difflib.get_close_matches(folder.name, beside, n=1)
    return f"; did you mean {folder.parent / close[0]}?" if close else ""
