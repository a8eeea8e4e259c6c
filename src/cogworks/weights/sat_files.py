"""Where the files of a SAT folder are. Knows no tensors.

    ROOT/transformer/latest                                 the iteration, as text
    ROOT/transformer/ITERATION/mp_rank_00_model_states.pt   the transformer
    ROOT/vae/3d-vae.pt                                      the VAE
    ROOT/t5-v1_1-xxl/                                       text encoder and spiece.model, as transformers saves them

The folder with `latest` or the one of an iteration may be given as well; what lies above it is found from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cogworks.errors import WeightsError

LATEST = "latest"
MODEL_STATES = "mp_rank_00_model_states.pt"
VAE_FILE = "3d-vae.pt"
TEXT_FOLDER = "t5-v1_1-xxl"


@dataclass(frozen=True)
class SatFiles:
    """The parts of a SAT folder; None where one is missing."""

    root: Path
    transformer: Path
    vae: Path | None
    text_encoder: Path | None


def is_sat(folder: Path) -> bool:
    """Whether `folder` is, or has in it, a SAT transformer."""
    return _transformer_folder(folder) is not None


def find_sat(folder: Path) -> SatFiles:
    """The parts of a SAT folder.

    Raises:
        WeightsError: there is no transformer, `latest` names an iteration that is not there, or the transformer was
            saved in parallel parts.
    """
    place = _transformer_folder(folder)
    if place is None:
        raise WeightsError(f"{folder} is not a SAT folder: it has no {LATEST} and no {MODEL_STATES}")
    states = _model_states(place)
    if states.with_name(MODEL_STATES.replace("00", "01")).exists():
        raise WeightsError(f"{states.parent} holds a transformer in parallel parts; merge them with SAT first")
    one_iteration = states.parent == place and (place.parent / LATEST).is_file()
    holder = place.parent if one_iteration else place
    root = holder.parent if holder.name == "transformer" else holder
    vae = _first(root / "vae" / VAE_FILE, root / VAE_FILE)
    text = _first(root / TEXT_FOLDER / "config.json", root / "text_encoder" / "config.json")
    return SatFiles(root, states, vae, text.parent if text else None)


def _transformer_folder(folder: Path) -> Path | None:
    for place in (folder, folder / "transformer"):
        if (place / LATEST).is_file() or (place / MODEL_STATES).is_file():
            return place
    return None


def _model_states(place: Path) -> Path:
    if (place / MODEL_STATES).is_file():
        return place / MODEL_STATES
    iteration = (place / LATEST).read_text(encoding="utf-8", errors="replace").strip()
    states = place / iteration / MODEL_STATES
    if Path(iteration).name != iteration or not states.is_file():
        raise WeightsError(f"{place / LATEST} names the iteration {iteration!r}, but {states} does not exist")
    return states


def _first(*paths: Path) -> Path | None:
    return next((path for path in paths if path.is_file()), None)
