"""How long and large every clip of a source is, and so which bucket it goes to."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cogworks.config.training_data import Bucket, ClipsData
from cogworks.data.buckets import choose_bucket, sort_by_bucket, why_no_bucket
from cogworks.data.clip import Clip, ClipFault, Clips, printable
from cogworks.errors import DataError, VideoError

_log = logging.getLogger(__name__)

_MOST_THREADS = 16  # most of the time goes to waiting for the disk


def bucket_clips(
    clips: Clips, data: ClipsData, on_progress: Callable[[int, int], None] | None = None
) -> tuple[dict[Bucket, tuple[int, ...]], tuple[ClipFault, ...]]:
    """Measure all clips, one decoded frame each, and sort them by bucket.

    Args:
        on_progress: called with how many clips are done, and how many there are.

    Returns:
        The indices of the clips of each bucket, and why the others are in none. The latter are logged in one line.

    Raises:
        DataError: no clip fits any bucket.
    """
    with ThreadPoolExecutor(min(_MOST_THREADS, (os.cpu_count() or 1) + 4)) as pool:
        found: list[Bucket | str] = []
        for bucket in pool.map(lambda clip: _bucket(clip, data), clips.items):
            found.append(bucket)
            if on_progress is not None:
                on_progress(len(found), len(clips.items))
    buckets = sort_by_bucket(each if isinstance(each, Bucket) else None for each in found)
    pairs = zip(clips.items, found, strict=True)
    faults = tuple(ClipFault(clip.name, why) for clip, why in pairs if isinstance(why, str))
    if not buckets:
        where, first = printable(data.source), faults[0]
        raise DataError(f"no clip of {where} fits a size of the recipe; the first, {first.name}: {first.why}")
    if faults:
        _log.warning(
            "%d of %d clips are left out, the first %s: %s (`cogworks data check` lists them)",
            len(faults),
            len(clips.items),
            *faults[0],
        )
    return buckets, faults


def _bucket(clip: Clip, data: ClipsData) -> Bucket | str:
    """Its bucket, or why it has none."""
    try:
        length, height, width, fps = clip.measure()
    except (VideoError, DataError) as error:
        return str(error)
    return choose_bucket(length, height, width, fps, data) or why_no_bucket(length, fps, data)
