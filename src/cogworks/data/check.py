"""Checking a source of clips before a run learns from it: every clip is decoded to its end, and every fault is told.

A clip is looked at through its 8x8 pixel means, which noise and compression hardly move.
"""

from __future__ import annotations

import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from cogworks.config.training_data import Bucket, ClipsData
from cogworks.data.buckets import choose_bucket, why_no_bucket
from cogworks.data.clip import Clip, Clips
from cogworks.errors import CogworksError
from cogworks.video.chosen import Extent, each_frame, measure_video

BLOCK = 8  # pixels, a side of what is averaged
BLACK_LEVEL = 16.0  # of 255: a block as dark as this in every frame is black
STILL_LEVELS = 3.0  # of 255: what the noise of a codec moves the mean of a block by
_SLOWER = 0.02  # of the rate: 23.976 is as good as 24, and a repeated frame in fifty is not seen

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Look:
    """What decoding one clip showed.

    Attributes:
        extent: frames that could be decoded, pixels, frames a second; None if there is no such frame.
        content_hash: of the file; None if it cannot be read.
        unreadable: why decoding ended before the end; None if it did not.
        is_black: no 8x8 block of any frame is lighter than `BLACK_LEVEL`.
        is_frozen: no block of any frame is more than `STILL_LEVELS` from that of the first. Never of a picture.
    """

    extent: Extent | None
    content_hash: str | None
    unreadable: str | None
    is_black: bool = False
    is_frozen: bool = False


@dataclass(frozen=True)
class Problem:
    """One fault: of which clip, of what kind (a word or two, the same for all of a kind), and in a sentence."""

    name: str
    kind: str
    text: str


@dataclass(frozen=True)
class CheckReport:
    """What a source holds.

    Attributes:
        clips: those that have a file and a caption.
        looks: what decoding each of them showed.
        problems: what is wrong, in the order of the clips.
        buckets: how many clips each size gets; empty if no sizes were asked about.
    """

    clips: tuple[Clip, ...]
    looks: tuple[Look, ...]
    problems: tuple[Problem, ...]
    buckets: dict[Bucket, int]

    @property
    def extents(self) -> list[Extent]:
        """Of the clips of which at least one frame could be decoded."""
        return [look.extent for look in self.looks if look.extent is not None]

    @property
    def caption_words(self) -> list[int]:
        return [len(clip.caption.split()) for clip in self.clips]

    @property
    def repeated_captions(self) -> int:
        """How many clips have the caption of an earlier one; that may be meant."""
        return len(self.clips) - len({clip.caption for clip in self.clips})

    def counts(self) -> dict[str, int]:
        """Problems of each kind."""
        return dict(Counter(problem.kind for problem in self.problems))


def check_clips(
    clips: Clips, data: ClipsData | None = None, workers: int = 1, on_progress: OnProgress | None = None
) -> CheckReport:
    """Decode every clip of a source, and collect what is wrong.

    Args:
        data: the recipe that the clips are for; None asks nothing about sizes.
        workers: processes that decode; 1 decodes in this one.
        on_progress: called with how many clips are done, and how many there are.
    """
    looks = tuple(_look_at_all(clips.items, workers, on_progress))
    problems = [Problem(name, "unpaired", why) for name, why in clips.faults]
    buckets: Counter[Bucket] = Counter()
    first_with: dict[str, str] = {}
    for clip, look in zip(clips.items, looks, strict=True):
        problems += _problems(clip, look, first_with)
        if data is not None and look.extent is not None:
            length, height, width, fps = look.extent
            bucket = choose_bucket(length, height, width, fps, data)
            if bucket is None:
                problems.append(Problem(clip.name, "fits no size", why_no_bucket(length, fps, data)))
            else:
                buckets[bucket] += 1
                if data.fps is not None and length > 1 and fps < data.fps * (1 - _SLOWER):
                    text = f"{fps:g} frames a second, fewer than the {data.fps:g} to be taken: frames are repeated"
                    problems.append(Problem(clip.name, "too slow", text))
    every = {bucket: buckets[bucket] for bucket in data.sizes} if data is not None else {}
    return CheckReport(clips.items, looks, tuple(problems), every)


def look_at(clip: Clip) -> Look:
    """Decode a clip to its end, one frame in memory at a time."""
    content_hash: str | None = None
    extent: Extent | None = None
    count, lightest, moved = 0, 0.0, 0.0
    try:
        content_hash = clip.content_hash()
        file = clip.open()
        extent = measure_video(file, exact=True)
        first: NDArray[np.float32] | None = None
        for frame in each_frame(file):
            blocks = _block_means(frame)
            first = blocks if first is None else first
            count += 1
            lightest = max(lightest, float(blocks.max()))
            moved = max(moved, float(np.abs(blocks - first).max()) if blocks.shape == first.shape else 255.0)
        unreadable = None
        if count < extent.num_frames:
            unreadable = f"cut short: {count} of {extent.num_frames} frames can be decoded"
    except CogworksError as error:
        unreadable = str(error)
    if extent is None or not count:
        return Look(None, content_hash, unreadable or "no frame can be decoded")
    is_frozen = count > 1 and moved <= STILL_LEVELS
    return Look(extent._replace(num_frames=count), content_hash, unreadable, lightest <= BLACK_LEVEL, is_frozen)


def _block_means(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Means of 8x8 pixels, each channel for itself; what is left over at the right and below has smaller blocks."""
    from PIL import Image

    return np.asarray(Image.fromarray(frame).reduce(BLOCK), np.float32)


def _problems(clip: Clip, look: Look, first_with: dict[str, str]) -> Iterator[Problem]:
    if not clip.caption:
        yield Problem(clip.name, "empty caption", "its caption is empty")
    if look.content_hash is not None:
        earlier = first_with.setdefault(look.content_hash, clip.name)
        if earlier != clip.name:
            yield Problem(clip.name, "duplicate", f"the same file as {earlier}")
    if look.unreadable is not None:
        yield Problem(clip.name, "unreadable", look.unreadable)
    if look.is_black:
        yield Problem(clip.name, "black", "black from the first frame to the last")
    elif look.is_frozen:
        yield Problem(clip.name, "frozen", "nothing moves from the first frame to the last")


def _look_at_all(clips: tuple[Clip, ...], workers: int, on_progress: OnProgress | None) -> list[Look]:
    """A look at each clip, in their order."""
    looks: dict[int, Look] = {}
    for index, look in _in_processes(clips, workers) if workers > 1 else _here(clips):
        looks[index] = look
        if on_progress is not None:
            on_progress(len(looks), len(clips))
    return [looks[index] for index in range(len(clips))]


def _here(clips: Iterable[Clip]) -> Iterator[tuple[int, Look]]:
    for index, clip in enumerate(clips):
        yield index, look_at(clip)


def _in_processes(clips: tuple[Clip, ...], workers: int) -> Iterator[tuple[int, Look]]:
    """Looks as they are done. What kills the process that decodes it is one more unreadable clip."""
    waiting = deque(enumerate(clips))
    in_flight: dict[int, Clip] = {}
    while waiting:
        try:
            yield from _pool(waiting, in_flight, workers)
        except BrokenProcessPool:
            # Which of those in flight did it is not told: each in a process of its own.
            suspects = list(in_flight.items())
            in_flight.clear()
            for index, clip in suspects:
                try:
                    yield from _pool(deque([(index, clip)]), {}, 1)
                except BrokenProcessPool:
                    yield index, Look(None, None, "decoding it kills the process; convert it or leave it out")


def _pool(waiting: deque[tuple[int, Clip]], in_flight: dict[int, Clip], workers: int) -> Iterator[tuple[int, Look]]:
    """Looks as they are done. Clips go from `waiting` to `in_flight`, and from there when they are done."""
    # Started anew, not forked: this process may have threads.
    context = get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(waiting)), context, _leave_ctrl_c_to_the_parent) as pool:
        futures: dict[Future[Look], int] = {}
        try:
            while waiting or futures:
                while waiting and len(futures) < 2 * workers:
                    index, clip = waiting.popleft()
                    in_flight[index] = clip
                    futures[pool.submit(look_at, clip)] = index
                for future in wait(futures, return_when=FIRST_COMPLETED).done:
                    look = future.result()
                    index = futures.pop(future)
                    del in_flight[index]
                    yield index, look
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _leave_ctrl_c_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
