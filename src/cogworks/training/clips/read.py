"""Batches of clips that are seen again and again, in a new order every epoch.

A clip that cannot be read is logged and counted, and another one, the same in every run, stands in for it.

Letters: B samples, T frames, H W pixels.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from cogworks.config.recipe import Recipe
from cogworks.config.training_data import Bucket
from cogworks.data.buckets import sort_by_bucket
from cogworks.data.clips import ClipFault
from cogworks.data.epochs import EpochOrder
from cogworks.errors import DataError, VideoError
from cogworks.training.clips.batches import PixelBatch, to_batch
from cogworks.training.clips.sources import ClipSource, Frames, ShapesSource, hash_of
from cogworks.video.chosen import Extent
from cogworks.weights.storage import write_json

log = logging.getLogger(__name__)

EXTENTS = "clips.json"
"""In a run's folder: how long and large its clips are, so that a run that goes on need not look at each again."""
LOOKERS = 8  # threads that look at clips; FFmpeg works outside Python's lock
NOTE_SECONDS = 30.0


class ClipsBatches:
    """This replica's share of every batch.

    Args:
        source: the clips.
        order: which of them a batch holds.
        seed: random views are drawn anew for every place in every batch.

    Attributes:
        bad: the clips that this process found it cannot read.
    """

    def __init__(self, source: ClipSource, order: EpochOrder, *, seed: int = 0, replica: int = 0) -> None:
        self.source = source
        self.order = order
        self.seed = seed
        self.replica = replica
        self.bad: set[int] = set()

    def __getitem__(self, number: int) -> PixelBatch:
        share = self.order.share(number, self.replica)
        clips = [self._read(number, place, index, share.bucket) for place, index in enumerate(share.indices)]
        indices, frames, images = (list(column) for column in zip(*clips, strict=True))
        own = None
        if any(image is not None for image in images):
            pictures = [clip[0] if image is None else image for clip, image in zip(frames, images, strict=True)]
            own = to_batch([picture[None] for picture in pictures])[:, :, 0]
        return PixelBatch(to_batch(frames), [self.source.caption(index) for index in indices], number, own)

    def fingerprint(self) -> str:
        return hash_of(self.source.fingerprint(), order_fingerprint(self.order), self.seed)

    def _read(self, number: int, place: int, index: int, bucket: Bucket) -> tuple[int, Frames, Frames | None]:
        """The clip, or the first of its substitutes that can be read."""
        key = (self.seed, number, self.replica, place)
        for each in self._candidates(number, place, index):
            try:
                return each, self.source.view(each, bucket, *key), self.source.image(each, bucket, *key)
            except (DataError, VideoError) as error:
                self._note(each, error)
        shape = "x".join(map(str, bucket))
        raise DataError(f"no clip of size {shape} can be read; `cogworks data check RECIPE` tells why")

    def _candidates(self, number: int, place: int, index: int) -> Iterator[int]:
        yield index
        yield from self.order.substitutes(number, self.replica, place)

    def _note(self, index: int, error: Exception) -> None:
        if index not in self.bad:
            self.bad.add(index)
            log.warning("another clip stands in for %s (%d so far): %s", self.source.name(index), len(self.bad), error)


def open_clips(recipe: Recipe, source: ClipSource, size: int, replica: int, replicas: int) -> ClipsBatches:
    """Batches of `size` clips of a source for one replica.

    How long and large the clips are is looked up at the first call, and kept in the run's folder.

    Raises:
        DataError: no clip fits a size of the recipe, or a size has fewer clips than replicas.
    """
    buckets = _buckets(source, _measure(source, recipe.output / EXTENTS))
    order = EpochOrder(buckets, size, replicas, recipe.seed)
    return ClipsBatches(source, order, seed=recipe.seed, replica=replica)


def order_fingerprint(order: EpochOrder) -> str:
    """One hash of what decides the order of clips."""
    return hash_of(order.seed, order.batch_size, order.replicas, sorted(order.buckets.items()))


def left_out(faults: Sequence[ClipFault]) -> None:
    """Log what of a source is not used, one line each."""
    for name, why in faults:
        log.warning("left out %s: %s", name, why)


def _buckets(source: ClipSource, extents: list[Extent | str]) -> dict[Bucket, tuple[int, ...]]:
    """The indices of the clips of each bucket; the others are logged."""
    buckets: list[Bucket | None] = []
    faults = list(source.faults)
    for index, extent in enumerate(extents):
        try:
            if isinstance(extent, str):
                raise DataError(extent)
            buckets.append(source.bucket(extent))
        except DataError as error:
            buckets.append(None)
            faults.append(ClipFault(source.name(index), str(error)))
    left_out(tuple(faults))
    if faults:
        log.warning(
            "%d clips are left out, %d are there to learn from", len(faults), len(buckets) - buckets.count(None)
        )
    return sort_by_bucket(buckets)


def _measure(source: ClipSource, memory: Path) -> list[Extent | str]:
    """The extent of every clip, or why it has none. What `memory` tells of an unchanged clip is not looked up again."""
    if isinstance(source, ShapesSource):
        return [source.extent(index) for index in range(len(source))]
    known = _read_extents(memory)
    stamps = [source.stamp(index) for index in range(len(source))]
    found: list[Extent | str | None] = [known.get((source.name(i), stamp)) for i, stamp in enumerate(stamps)]
    missing = [index for index, extent in enumerate(found) if extent is None]
    if missing:
        with ThreadPoolExecutor(LOOKERS) as pool:
            note = _noting("looked at %d of %d clips", len(missing))
            for index, extent in zip(missing, pool.map(partial(_extent, source), missing), strict=True):
                found[index] = extent
                note()
        entries = {
            source.name(index): [stamps[index], *extent]
            for index, extent in enumerate(found)
            if isinstance(extent, Extent)
        }
        write_json(memory, {"clips": entries})
    return [extent for extent in found if extent is not None]


def _extent(source: ClipSource, index: int) -> Extent | str:
    try:
        return source.extent(index)
    except (DataError, VideoError) as error:
        return str(error)


def _read_extents(memory: Path) -> dict[tuple[str, str], Extent]:
    """Extents by name and stamp; none where the file is not there or not one of ours."""
    try:
        entries = json.loads(memory.read_text(encoding="utf-8"))["clips"]
        return {(name, stamp): Extent(*extent) for name, (stamp, *extent) in entries.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _noting(text: str, total: int) -> Callable[[], None]:
    """To be called for each thing done: logs how many, now and then."""
    done, last = 0, time.monotonic()

    def note() -> None:
        nonlocal done, last
        done += 1
        if time.monotonic() - last > NOTE_SECONDS:
            last = time.monotonic()
            log.info(text, done, total)

    return note
