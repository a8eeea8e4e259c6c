"""What a user typed as a model, to a folder on this machine.

A bundled name (`tiny`), a published name (`cogvideox-5b`) or hub id (`THUDM/CogVideoX-5b`), or a folder in the layout
of diffusers or of SAT. A folder never causes a network access; the hub goes through huggingface_hub, with its cache,
its token and its environment variables (HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME). Knows no tensors.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cogworks.config.variants import VARIANTS
from cogworks.errors import WeightsError
from cogworks.weights.sat_files import MODEL_STATES, is_sat

ASSETS = Path(__file__).resolve().parent.parent / "assets"
"""Folder of the bundled models."""

_COMPONENTS = ("transformer", "vae", "text_encoder")
_CONFIG_PATTERNS = ("model_index.json", "cogworks.json", "*/config.json", "scheduler/*.json", "tokenizer/*")
_SAT_PATTERNS = ("transformer/latest", f"transformer/*/{MODEL_STATES}", "vae/*.pt", "t5-v1_1-xxl/*")
_PRECISIONS = ("fp16", "bf16", "fp32")  # marks that a file name can carry
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
        return _from_hub(hub_id, revision, local_files_only, file_variant)
    folder = Path(source).expanduser()
    if folder.exists():
        return open_folder(folder, file_variant)
    if isinstance(source, str) and _HUB_ID.fullmatch(name) and not name.startswith("."):
        return _from_hub(name, revision, local_files_only, file_variant)
    if isinstance(source, Path) or "/" in name or "\\" in name:
        raise WeightsError(f"there is no folder {name}")
    nearest = difflib.get_close_matches(name.lower(), VARIANTS, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else f"the names are {', '.join(VARIANTS)}"
    raise WeightsError(f"there is no model or folder called {name}; {hint}")


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


def _from_hub(hub_id: str, revision: str | None, local_files_only: bool, file_variant: str | None) -> ModelFolder:
    from huggingface_hub import errors, snapshot_download

    weights = f"*.{file_variant}*" if file_variant else "*"
    allow = [f"{part}/{weights}{end}" for part in _COMPONENTS for end in (".safetensors", ".json")]
    ignore = [] if file_variant else [f"*.{mark}{end}" for mark in _PRECISIONS for end in (".*", "-*")]
    at = f"{hub_id} at revision {revision}" if revision else hub_id
    try:
        path = snapshot_download(
            hub_id,
            revision=revision,
            local_files_only=local_files_only,
            allow_patterns=[*_CONFIG_PATTERNS, *_SAT_PATTERNS, *allow],
            ignore_patterns=ignore,
        )
    except errors.GatedRepoError:
        raise WeightsError(f"{hub_id} is gated: accept its terms on the hub and log in (hf auth login)") from None
    except errors.RevisionNotFoundError:
        raise WeightsError(f"{hub_id} has no revision {revision} on the hub") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise WeightsError(
            f"{hub_id} is neither a folder here nor a model on the hub that you may read; check the spelling, "
            "or log in if it is private (hf auth login)"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        why = "only local files were allowed" if local_files_only else "the hub cannot be reached or is switched off"
        raise WeightsError(
            f"{at} is not in the local cache and {why}; connect, or give the path of a folder that holds it"
        ) from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise WeightsError(f"{at} could not be fetched from the hub: {error}") from None
    return open_folder(Path(path), file_variant)
