"""Texts that were read before, on disk: for them no process needs the text encoder.

An entry is the embedding of one text. Its name is a hash of all that its bits depend on, so that a run gives the same
video whether it finds an entry or not: the token ids; weights, shape and dtype of the text encoder; and what computes.
An entry is written whole or not at all, and one that is damaged counts as none. Those that were not used for longest go
when there is no room. Folder and entries may be deleted at any time, also while they are used.

Letters: N text tokens, D width of the text encoder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cogworks.config.places import cache_folder
from cogworks.config.units import parse_memory
from cogworks.errors import RequestError, WeightsError
from cogworks.pipelines.provenance import hardware, versions
from cogworks.weights.fingerprint import part_hash
from cogworks.weights.load import Components, has_text_encoder
from cogworks.weights.storage import replacing

log = logging.getLogger(__name__)

FORMAT = 1
SIZE_VARIABLE = "COGWORKS_PROMPT_CACHE"
DEFAULT_BYTES = 256 * 10**6
"""Room for 69 texts of T5 XXL in float32, or 15,000 of `tiny`."""


def prompts_folder() -> Path:
    """Where the entries are. It may not exist yet."""
    return cache_folder() / "prompts"


def prompts_bytes() -> int:
    """How much they may take: $COGWORKS_PROMPT_CACHE, an amount as "1GB"; 0 keeps none.

    Raises:
        RequestError: the variable holds no amount.
    """
    asked = os.environ.get(SIZE_VARIABLE, "").strip()
    if asked == "0":
        return 0
    try:
        return parse_memory(asked) if asked else DEFAULT_BYTES
    except RequestError:
        raise RequestError(f"{SIZE_VARIABLE} is an amount such as 1GB, or 0 to keep nothing, got {asked!r}") from None


class PromptCache:
    """The embeddings that one model's text encoder gives.

    It knows and learns nothing while the text encoder is not that of the file (`LazyNetwork.lend`), while torch casts
    by itself (`torch.autocast`), and once the file was replaced.

    Args:
        components: the model.
    """

    def __init__(self, components: Components) -> None:
        self._components = components
        self._weights: str | None = None  # hash of the file as it was when it was first asked for

    def read(self, ids: Tensor) -> Tensor | None:
        """The embedding (N, D) of a text in the dtype that it was computed in, on the CPU; None where it is not known.

        Args:
            ids: (N,) its tokens.
        """
        path = self._file(ids)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                embedding = file.get_tensor("embedding").clone()  # what is mapped could change
                whole = (file.metadata() or {}).get("sha256") == _hash(embedding)
        except (SafetensorError, OSError) as error:
            log.debug("the remembered prompt %s cannot be read, and is made again: %s", path, error)
            return None
        if not whole:
            log.debug("the remembered prompt %s is damaged, and is made again", path)
            return None
        with suppress(OSError):
            os.utime(path)  # the last to go
        return embedding

    def write(self, ids: Tensor, embedding: Tensor) -> None:
        """Remember the embedding (N, D) of a text, on the CPU. Where that is not possible, nothing happens.

        Args:
            ids: (N,) its tokens.
        """
        path, room = self._file(ids), prompts_bytes()
        if path is None or embedding.nbytes > room:
            return
        content = {"embedding": embedding.contiguous()}
        try:
            with replacing(path) as temporary:
                save_file(content, temporary, metadata={"sha256": _hash(embedding)})
            _make_room(path.parent, room)
        except (SafetensorError, OSError) as error:
            log.debug("the prompt is not remembered: %s", error)

    def _file(self, ids: Tensor) -> Path | None:
        """Where the embedding of these tokens is or would be; None where it must not be kept."""
        components, device = self._components, self._components.device
        if (
            not prompts_bytes()
            or components.networks.text_encoder.lent
            or torch.is_autocast_enabled(device.type)
            or not has_text_encoder(components.text_folder)
        ):
            return None
        try:
            weights = part_hash(components.text_folder, "text_encoder")
        except WeightsError:
            return None  # whoever needs the file will say what is wrong with it
        self._weights = self._weights or weights
        if weights != self._weights:
            return None
        on_what = {
            "format": FORMAT,
            "tokens": ids.tolist(),
            "weights": weights,
            "encoder": asdict(components.variant.text_encoder),
            "dtype": str(components.text_dtype),
            "hardware": hardware(device),
            "threads": torch.get_num_threads() if device.type == "cpu" else 0,
            "precision": torch.get_float32_matmul_precision(),
            "versions": versions(),
        }
        name = hashlib.sha256(json.dumps(on_what, sort_keys=True).encode()).hexdigest()
        return prompts_folder() / f"{name}.safetensors"


def _hash(embedding: Tensor) -> str:
    return hashlib.sha256(embedding.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def _make_room(folder: Path, room: int) -> None:
    """Remove the entries that were not used for longest until the others fit."""
    entries = sorted(((entry.stat(), entry.path) for entry in os.scandir(folder)), key=lambda each: each[0].st_mtime_ns)
    excess = sum(state.st_size for state, _ in entries) - room
    for state, path in entries:
        if excess <= 0:
            return
        with suppress(OSError):  # another process was faster
            os.unlink(path)
        excess -= state.st_size
