"""Large files of the hub, fetched in pieces, so that an interruption costs a piece and not gigabytes.

huggingface_hub deletes the temporary file of a download that ends early, because its name is random and no later call
would find it (2.4, `_download_to_tmp_and_move`); it resumes within one call alone. So large files are put here into the
place where its cache keeps them, `blobs/HASH`, and a snapshot that is asked for afterwards finds them there. What has
arrived of a file is `blobs/HASH.incomplete` until it is whole. That layout is documented
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache); were it to change, huggingface_hub would fetch the
files itself. Two processes may fetch the same file: they write the same bytes to the same places. Where the system has
no symbolic links the cache keeps files elsewhere, and all is left to huggingface_hub.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

LARGE = 32 * 2**20
"""Smaller files are left to huggingface_hub."""
PIECE = 16 * 2**20
AT_ONCE = 4
"""Files at a time: one alone waits for the hub's answers between its pieces."""


def fetch_large(
    hub_id: str,
    revision: str | None,
    folder: Path,
    *,
    allow: Sequence[str],
    ignore: Sequence[str],
    bars: Callable[..., Any],
) -> None:
    """Put the large files of a model into the hub's cache, going on where an earlier call was interrupted.

    Args:
        revision: branch, tag or commit; None for the main branch.
        folder: of the model in the cache.
        allow, ignore: patterns of file names, as for `huggingface_hub.snapshot_download`.
        bars: makes the progress bar; called like `tqdm.tqdm`.

    Raises:
        Exception: what huggingface_hub raises; an OSError where a file is not what the hub says it is.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import are_symlinks_supported

    if constants.HF_HUB_OFFLINE or not are_symlinks_supported(folder.parent):
        return
    commit, listed = _large_files(hub_id, revision or constants.DEFAULT_REVISION)
    blobs = folder / "blobs"
    files = [
        file
        for file in listed
        if _any(file.name, allow) and not _any(file.name, ignore) and not (blobs / file.sha256).exists()
    ]
    if not files:
        return
    blobs.mkdir(parents=True, exist_ok=True)
    parts = [blobs / f"{file.sha256}.incomplete" for file in files]
    here = sum(part.stat().st_size for part in parts if part.exists())
    if here:
        logger.info("going on with %.1f MB of large files that arrived before", here / 1e6)
    stop = Event()
    with (
        bars(
            total=sum(file.size for file in files), initial=here, unit="B", unit_scale=True, desc="large files"
        ) as bar,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        jobs = [
            pool.submit(_fetch, f"{hub_id}/{file.name}", commit, file.size, part, bar.update, stop)
            for file, part in zip(files, parts, strict=True)
        ]
        try:
            for job in jobs:
                job.result()
        finally:
            stop.set()  # what still runs after an error or Ctrl-C ends with its piece


class _File(NamedTuple):
    """A file under large file storage, whose hash is its name in the cache; that of others would be git's."""

    name: str
    sha256: str
    size: int


def _large_files(hub_id: str, revision: str) -> tuple[str, list[_File]]:
    """The commit that a revision stands for, and its large files."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(hub_id, revision=revision, files_metadata=True)
    assert info.sha is not None  # the hub says it of every revision
    stored = (_File(file.rfilename, file.lfs.sha256, file.lfs.size) for file in info.siblings or () if file.lfs)
    return info.sha, [file for file in stored if file.size >= LARGE]


def _any(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name fits one of the patterns, as huggingface_hub decides that."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def _fetch(path: str, revision: str, size: int, part: Path, on_bytes: Callable[[int], object], stop: Event) -> None:
    """The rest of one file, which gets its name in the cache when its hash is right."""
    from huggingface_hub import HfFileSystem

    hub = HfFileSystem(skip_instance_cache=True)
    with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT), "r+b") as target:
        at = target.seek(0, os.SEEK_END)
        if at < size:
            with hub.open(path, "rb", revision=revision, size=size, block_size=PIECE, cache_type="none") as source:
                source.seek(at)
                while at < size and not stop.is_set():
                    piece = source.read(min(PIECE, size - at))
                    if not piece:
                        raise OSError(f"the hub sent {at} of {size} bytes of {path}")
                    target.write(piece)
                    at += len(piece)
                    on_bytes(len(piece))
        if at < size:
            return
        target.seek(0)
        found = hashlib.file_digest(target, "sha256").hexdigest()
    if found != part.stem:
        part.unlink(missing_ok=True)
        raise OSError(f"{path} did not arrive as the hub has it, and was deleted")
    try:
        os.replace(part, part.with_suffix(""))
    except FileNotFoundError:  # another process was faster
        if not part.with_suffix("").exists():
            raise
