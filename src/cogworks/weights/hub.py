"""The hub: fetching the files of a model that a load reads, and saying in one sentence why that did not work.

All goes through huggingface_hub, with its cache, its token and its environment variables (HF_ENDPOINT, HF_HUB_OFFLINE,
HF_HOME). What has arrived is kept, so a download that was interrupted goes on with what is missing (`hub_resume`).
Knows no tensors.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cogworks.errors import WeightsError
from cogworks.weights.hub_resume import fetch_large
from cogworks.weights.sat_files import LATEST, MODEL_STATES, TEXT_FOLDER
from cogworks.weights.storage import read_json

logger = logging.getLogger(__name__)

PARTS = ("transformer", "vae", "text_encoder")
_CONFIGS = ("model_index.json", "cogworks.json", "*/config.json", "scheduler/*.json", "tokenizer/*")
_SAT = (f"transformer/{LATEST}", f"transformer/*/{MODEL_STATES}", "vae/*.pt", f"{TEXT_FOLDER}/*")
_FIRST_LOOK = ("model_index.json", f"transformer/{LATEST}")
_PRECISIONS = ("fp16", "bf16", "fp32")  # marks that a file name can carry
_FAMILY = "CogVideoX"  # how the pipelines of these models are called
# huggingface_hub has changed its HTTP library twice, and some errors of each have no base class but Exception.
_CLIENTS = ("huggingface_hub", "hf_xet", "httpx2", "httpx", "httpcore", "requests", "urllib3")


@dataclass(frozen=True)
class HubModel:
    """What is wanted of the hub.

    Attributes:
        hub_id: for example "THUDM/CogVideoX-5b".
        revision: branch, tag or commit; None for the main branch.
        file_variant: the precision in the names of the weight files; None for the files without one.
    """

    hub_id: str
    revision: str | None = None
    file_variant: str | None = None

    def __str__(self) -> str:
        return f"{self.hub_id} at revision {self.revision}" if self.revision else self.hub_id

    @property
    def folder(self) -> Path:
        """Where the hub's cache keeps all revisions of it; there may be no such folder."""
        return hub_cache() / f"models--{self.hub_id.replace('/', '--')}"

    def find(self) -> Path:
        """Its folder in the hub's cache, without network. Raises WeightsError if it is not there in full."""
        try:
            return self._complete(local_files_only=True)
        except Exception as error:
            raise self._explained(error, local_files_only=True) from error

    def fetch(self) -> Path:
        """Its folder in the hub's cache, after fetching what is missing there.

        A copy that is complete is taken where the hub cannot be reached. What is not a model of this family is
        refused before its weights are fetched.

        Raises:
            WeightsError: there is no such model, it may not be read, or it cannot be fetched.
        """
        try:
            here: Path | None = self.find()
        except WeightsError:
            here = None
        try:
            if here is None:
                self._check(self._snapshot(_FIRST_LOOK))
                logger.info("fetching %s from the hub into %s", self, hub_cache())
                self._fetch_large()
            return self._complete()
        except WeightsError:
            raise
        except Exception as error:
            explained = self._explained(error)
            if here is None or _is_refusal(error):
                raise explained from error
            logger.warning("%s; using the copy on this machine", explained)
            return here

    @property
    def _mark(self) -> str:
        """Pattern of the names of weight files, without their end."""
        return f"*.{self.file_variant}*" if self.file_variant else "*"

    @property
    def _weights(self) -> list[str]:
        return [f"{part}/{self._mark}{end}" for part in PARTS for end in (".safetensors", ".json")]

    @property
    def _ignored(self) -> list[str]:
        return [] if self.file_variant else [f"*.{mark}{end}" for mark in _PRECISIONS for end in (".*", "-*")]

    def _complete(self, *, local_files_only: bool = False) -> Path:
        path = self._snapshot([*_CONFIGS, *_SAT, *self._weights], local_files_only)
        # Pickled weights are fetched for those parts alone that have nothing better.
        pickled = [f"{part}/{self._mark}.bin" for part in PARTS if _has_no_safetensors(path / part, self._mark)]
        return self._snapshot(pickled, local_files_only) if pickled else path

    def _fetch_large(self) -> None:
        fetch_large(
            self.hub_id,
            self.revision,
            self.folder,
            allow=[*_SAT, *self._weights],
            ignore=self._ignored,
            bars=_bars(),
        )

    def _snapshot(self, allow: Sequence[str], local_files_only: bool = False) -> Path:
        from huggingface_hub import snapshot_download

        path = snapshot_download(
            self.hub_id,
            revision=self.revision,
            local_files_only=local_files_only,
            allow_patterns=list(allow),
            ignore_patterns=self._ignored,
            tqdm_class=_bars(),
        )
        return Path(path)

    def _check(self, folder: Path) -> None:
        """Raise WeightsError unless `folder`, which may hold no weights yet, is of this family."""
        index = folder / "model_index.json"
        if not index.is_file():
            if not (folder / "transformer" / LATEST).is_file():
                raise WeightsError(
                    f"{self} holds no model of the CogVideoX family: it has neither model_index.json nor "
                    f"transformer/{LATEST}"
                )
            return
        kind = str(read_json(index).get("_class_name"))
        if not kind.startswith(_FAMILY):
            raise WeightsError(f"{self} is a {kind}, and Cogworks reads models of the CogVideoX family alone")

    def _explained(self, error: Exception, *, local_files_only: bool = False) -> WeightsError:
        """The error to raise in place of what came out of the hub's client; what is no error of it is raised again."""
        from huggingface_hub import errors

        what = f"{self} could not be fetched from the hub"
        match error:
            case errors.GatedRepoError():
                return WeightsError(f"{self.hub_id} is gated: accept its terms on the hub and log in (hf auth login)")
            case errors.RevisionNotFoundError():
                return WeightsError(f"{self.hub_id} has no revision {self.revision} on the hub")
            case errors.RepositoryNotFoundError() | errors.HFValidationError():
                return WeightsError(
                    f"{self.hub_id} is neither a folder here nor a model on the hub that you may read; check the "
                    "spelling, or log in if it is private (hf auth login)"
                )
            case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
                part = " in full" if hasattr(error, "snapshot_path") else ""
                return WeightsError(
                    f"{self} is not{part} in the local cache and {_why_not_reached(error, local_files_only)}; "
                    "connect, or give the path of a folder that holds it"
                )
            case _ if _is_disk_full(error):
                return WeightsError(
                    f"{what}: the disk of {hub_cache()} is full; make room, or move the cache (HF_HOME), and run the "
                    "command again"
                )
            case PermissionError():
                return WeightsError(f"{what}: {hub_cache()} may not be written to; move the cache (HF_HOME)")
        if not isinstance(error, OSError | RuntimeError | ValueError) and _client(error) is None:
            raise error
        return WeightsError(f"{what}: {_first_line(error)}; what has arrived is kept, so try again")


def hub_cache() -> Path:
    """The folder that huggingface_hub keeps models in."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def size_on_disk(folder: Path) -> int:
    """Bytes of all files under `folder`; links are followed, and what two names share is counted once."""
    sizes = {}
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.stat(os.path.join(place, name))
            except OSError:  # it has just gone, or links to nothing
                continue
            sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())


def _has_no_safetensors(folder: Path, mark: str) -> bool:
    return (folder / "config.json").is_file() and not any(folder.glob(f"{mark}.safetensors"))


def _is_disk_full(error: Exception) -> bool:
    # The client for xet storage is not written in Python and raises what it likes.
    return getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error)


def _is_refusal(error: Exception) -> bool:
    """Whether the hub answered, and its answer was no."""
    from huggingface_hub import errors

    return isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError | errors.HFValidationError)


def _why_not_reached(error: Exception, local_files_only: bool) -> str:
    from huggingface_hub import errors

    if local_files_only:
        return "only local files were allowed"
    cause = error.__cause__ or error
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return "the hub is switched off (HF_HUB_OFFLINE)"
    return "the hub cannot be reached" if cause is error else f"the hub cannot be reached ({_first_line(cause)})"


def _client(error: BaseException) -> str | None:
    """The library that the class of an error is from, if it is one of those that talk to the hub."""
    modules = (kind.__module__.partition(".")[0] for kind in type(error).__mro__)
    return next((module for module in modules if module in _CLIENTS), None)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@cache
def _bars() -> type[Any]:
    """Progress bars of huggingface_hub that keep quiet unless a person is watching."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bars(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": not sys.stderr.isatty()})

    return Bars
