"""Encode all clips and captions of a recipe once, so that a run need not do so at every step.

It may be interrupted, or killed, at any moment: the next call makes what is missing.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cogworks.config.recipe import Recipe
from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.data.clips import ClipFault
from cogworks.errors import DataError, RunError
from cogworks.training.clips.prepare_work import (
    CaptionMade,
    ClipBad,
    ClipMade,
    Work,
    encode_here,
    encode_in_processes,
    is_whole,
)
from cogworks.training.clips.prepared import PreparedClip, PreparedClips, PreparedFolder, open_batches, prepared_folder
from cogworks.training.clips.sources import ClipSource, source_of
from cogworks.training.transformer.start import find_parts

log = logging.getLogger(__name__)

SAVE_SECONDS = 30.0  # between two notes of what is known
NOTE_SECONDS = 30.0  # between two lines of the log, where nobody listens
STALE_SECONDS = 3600.0  # after which half a file is nobody's work any more

Phase = Literal["captions", "clips"]

OnProgress = Callable[[Phase, int, int], None]
"""Told how many of how many captions or clips are there."""


@dataclass(frozen=True)
class Prepared:
    """What a prepared folder holds of a recipe.

    Attributes:
        path: of the folder.
        clips: that can be learned from.
        captions: different ones, the empty one included; none where the text encoder is trained.
        new_clips, new_captions: of those, how many were encoded by this call.
        num_bytes: of all their files.
        seconds: that this call took.
        faults: clips that are left out, and why.
    """

    path: Path
    clips: int
    captions: int
    new_clips: int
    new_captions: int
    num_bytes: int
    seconds: float
    faults: tuple[ClipFault, ...]


def prepare(recipe: TransformerRecipe, workers: int = 1, on_progress: OnProgress | None = None) -> Prepared:
    """Bring the latents and prompt embeddings of a recipe into its `prepared` folder, as far as they are missing.

    A clip that cannot be read or is too short is logged and left out.

    Args:
        workers: processes that encode; each holds a text encoder first and a VAE then. 1 encodes in this one.
        on_progress: told what is there already, and every caption and clip that is done.

    Raises:
        RecipeError: the recipe names no folder, or clips that look different every time.
        DataError: there is no clip that can be used.
        WeightsError: a model that the recipe names is not there or damaged.
        RunError: a file cannot be written, or a process was killed; what was made before is kept.
    """
    began = time.monotonic()
    parts = find_parts(recipe)
    folder = prepared_folder(recipe, parts)
    source = source_of(recipe)
    assert source is not None  # a recipe of drawn clips that prepares them says how many
    _remove_leftovers(folder.path)
    ledger = _Ledger(folder, source, on_progress)
    work = Work(recipe, parts, folder, source, ledger.missing_captions, ledger.missing_clips)
    total = max(len(work.captions), len(work.clips))
    try:
        events = encode_here(work) if min(workers, total) < 2 else encode_in_processes(work, min(workers, total))
        for event in events if total else ():
            ledger.note(event)
    except BaseException:
        with contextlib.suppress(RunError):  # why it ended says more
            ledger.save()
        raise
    ledger.save()
    if not ledger.clips:
        first = ledger.faults[0]
        raise DataError(f"none of the clips can be used; {first.name}: {first.why}")
    made = ledger.summary(time.monotonic() - began)
    log.info("%s: %d clips, %d of them new, %d left out", made.path, made.clips, made.new_clips, len(made.faults))
    return made


def make_ready(recipe: Recipe) -> None:
    """Encode what a run wants encoded, or measure its clips: once, and before anything else takes time.

    Raises:
        DataError, RecipeError: no clip can be used, there are fewer than devices, or they cannot be prepared.
    """
    if isinstance(recipe, TransformerRecipe) and recipe.prepared is not None:
        prepare(recipe, max(1, recipe.data_workers))
    elif recipe.data.kind == "clips":
        open_batches(recipe, 0, recipe.devices)


class _Ledger:
    """What is known of the clips of a recipe: first what an earlier call found, then what the workers tell."""

    def __init__(self, folder: PreparedFolder, source: ClipSource, on_progress: OnProgress | None) -> None:
        self.folder = folder
        self.source = source
        self.on_progress = on_progress
        self.captions: list[str] = []
        if folder.texts_key is not None:
            self.captions = list(dict.fromkeys(["", *(source.caption(index) for index in range(len(source)))]))
        self.missing_captions = tuple(
            caption for caption in self.captions if not is_whole(folder.text_file(caption), "text_emb")
        )
        self.clips = dict(_unchanged(folder, source))
        self.missing_clips = tuple(index for index in range(len(source)) if index not in self.clips)
        self.bad_clips: dict[int, ClipFault] = {}
        for fault in source.faults:
            log.warning("left out %s: %s", *fault)
        self.captions_done, self.new_clips = len(self.captions) - len(self.missing_captions), 0
        self.saved = self.noted = time.monotonic()
        self.began: dict[Phase, tuple[float, int]] = {}
        if on_progress is not None:
            on_progress("captions", self.captions_done, len(self.captions))
            on_progress("clips", len(self.clips), len(source))

    @property
    def faults(self) -> tuple[ClipFault, ...]:
        return (*self.source.faults, *(self.bad_clips[index] for index in sorted(self.bad_clips)))

    def note(self, event: object) -> None:
        """Take in what a worker tells."""
        if isinstance(event, CaptionMade):
            self.captions_done += 1
            self._tell("captions", self.captions_done, len(self.captions))
        elif isinstance(event, ClipMade):
            self.clips[event.index] = event.clip
            self.new_clips += event.new
        elif isinstance(event, ClipBad):
            self.bad_clips[event.index] = fault = ClipFault(self.source.name(event.index), event.why)
            log.warning("left out %s: %s", *fault)
        if isinstance(event, ClipMade | ClipBad):
            self._tell("clips", len(self.clips) + len(self.bad_clips), len(self.source))
        if self.new_clips and time.monotonic() - self.saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the list, so that a call that goes on need not read every clip again to know what it is."""
        known = len(self.clips) + len(self.bad_clips)
        complete = self.captions_done == len(self.captions) and known == len(self.source)
        items = tuple(self.clips[index] for index in sorted(self.clips))
        self.folder.write_list(PreparedClips(items, self.faults, complete))
        self.saved = time.monotonic()

    def summary(self, seconds: float) -> Prepared:
        files = {self.folder.latents_file(clip.content, clip.bucket) for clip in self.clips.values()}
        files |= {self.folder.text_file(caption) for caption in self.captions}
        return Prepared(
            path=self.folder.path,
            clips=len(self.clips),
            captions=len(self.captions),
            new_clips=self.new_clips,
            new_captions=len(self.missing_captions),
            num_bytes=sum(file.stat().st_size for file in files),
            seconds=seconds,
            faults=self.faults,
        )

    def _tell(self, what: Phase, done: int, total: int) -> None:
        if self.on_progress is not None:
            self.on_progress(what, done, total)
            return
        now = time.monotonic()
        began, first = self.began.setdefault(what, (now, done))
        if now - self.noted > NOTE_SECONDS and done > first:
            left = (now - began) / (done - first) * (total - done) / 60
            log.info("prepared %d of %d %s, about %.1f minutes left", done, total, what, left)
            self.noted = now


def _unchanged(folder: PreparedFolder, source: ClipSource) -> Iterator[tuple[int, PreparedClip]]:
    """The clips that were prepared before and whose files look as they did then."""
    known = {clip.name: clip for clip in folder.read_list().items}
    for index in range(len(source)):
        clip = known.get(source.name(index))
        if clip is None or clip.stamp != source.stamp(index):
            continue
        file = folder.latents_file(clip.content, clip.bucket)
        if file.is_file() and file.stat().st_size == clip.num_bytes:
            yield index, clip._replace(caption=source.caption(index))


def _remove_leftovers(folder: Path) -> None:
    """Half files of calls that were killed. What is younger may be another call's work."""
    for path in (*folder.glob("*/.*.tmp"), *folder.glob("*/*/.*.tmp")):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
