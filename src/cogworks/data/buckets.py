"""Which frames of a clip are taken, and which of the shapes of a recipe a clip goes to.

Letters: n frames that may be used, those of a clip without its ends; r the frames of the clip from one taken to the
next, its rate divided by `fps`, or `stride`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cogworks.config.training_data import Bucket, ClipsData
from cogworks.errors import DataError


def usable_frames(length: int, fps: float, data: ClipsData) -> int:
    """The frames that a clip gives at the recipe's rate, without its ends: k = 0, 1, ... while k r is within the clip.

    Args:
        length: frames of the clip. One is a picture, which has no ends to leave out.
        fps: the clip's frames a second.
    """
    inside = _inside(length, data)
    # Frame k r is rounded to the nearest, so that a rate of 7.999 has as many frames as one of 8.
    return max(0, math.ceil((inside - 0.5) / _interval(fps, data)))


def choose_frames(length: int, fps: float, data: ClipsData, num_frames: int, draw: float = 0.0) -> NDArray[np.intp]:
    """The frames of a clip to train on.

    They are r apart, each rounded to the nearest. Where the recipe pads, a clip with fewer repeats its last one.

    SAT takes every s-th frame from the fourth on, s = int(num_frames / fps * rate) // num_frames, and never the last
    three: for clips of one rate that is `stride: s`, `start: first`, `skip_ends: 3`, `short_clips: pad` here. It
    differs where the clip is too short for that at `fps`: SAT then takes frames closer together, so that the clip
    plays slower than it is, or, with fewer than `num_frames` in all, drops up to three to have 4 j + 1 before it pads.
    And where rate and fps do not divide, SAT rounds the distance down, `fps` here rounds each frame's place.

    Args:
        length: frames of the clip.
        fps: its frames a second.
        num_frames: how many to take.
        draw: in [0, 1): where the frames begin if the recipe says `random`.

    Returns:
        (num_frames,) ascending indices.

    Raises:
        DataError: the clip has too few frames, and the recipe does not pad; or none at all without its ends.
    """
    usable = usable_frames(length, fps, data)
    if usable < num_frames and (data.short_clips == "skip" or not usable):
        raise DataError(f"{_given(length, fps, data)}, fewer than the {num_frames} asked for")
    offsets = np.floor(np.arange(min(num_frames, usable)) * _interval(fps, data) + 0.5).astype(np.intp)
    spare = _inside(length, data) - 1 - int(offsets[-1])
    begin = {"first": 0, "middle": spare // 2, "random": int(draw * (spare + 1))}[data.start]
    taken = offsets + begin + (0 if length == 1 else data.skip_ends)
    return np.pad(taken, (0, num_frames - len(taken)), mode="edge")


def choose_bucket(length: int, height: int, width: int, fps: float, data: ClipsData) -> Bucket | None:
    """The bucket of a clip: most frames that it has, and of those the nearest shape.

    Distance between shapes is the logarithm of the ratio of their aspect ratios plus that of the ratio of their sizes
    (square roots of areas): half as wide counts as much as half as large. A picture only goes to buckets of one frame.

    Args:
        length: frames of the clip.
        height, width: pixels.
        fps: its frames a second.

    Returns:
        None if the clip has too few frames for every bucket, or it is a picture and none has one frame.
    """
    usable = usable_frames(length, fps, data)
    fitting = [bucket for bucket in data.sizes if bucket.frames <= usable]
    if length == 1:
        fitting = [bucket for bucket in data.sizes if bucket.frames == 1]
    elif not fitting and usable and data.short_clips == "pad":
        least = min(bucket.frames for bucket in data.sizes)
        fitting = [bucket for bucket in data.sizes if bucket.frames == least]
    if not fitting:
        return None
    most = max(bucket.frames for bucket in fitting)

    def distance(bucket: Bucket) -> float:
        tall, wide = math.log(height / bucket.height), math.log(width / bucket.width)
        return abs(wide - tall) + abs(wide + tall) / 2

    return min((bucket for bucket in fitting if bucket.frames == most), key=distance)


def why_no_bucket(length: int, fps: float, data: ClipsData) -> str:
    """What to say of a clip for which there is no bucket."""
    if length == 1:
        return "a picture, and no size of the recipe has one frame"
    least = min(bucket.frames for bucket in data.sizes)
    return f"too short: {_given(length, fps, data)}, and the shortest size has {least}"


def _given(length: int, fps: float, data: ClipsData) -> str:
    """How many frames there are, and how many of them the recipe takes."""
    said = f"{length} frame{'' if length == 1 else 's'}"
    if data.fps is not None:
        said += f" at {fps:g} frames a second, taken at {data.fps:g},"
    elif data.stride > 1:
        said += f", one in {data.stride} taken,"
    if data.skip_ends and length > 1:
        said += f" without {data.skip_ends} at each end"
    return f"{said} give{'s' if length == 1 else ''} {usable_frames(length, fps, data)}"


def sort_by_bucket(buckets: Iterable[Bucket | None]) -> dict[Bucket, tuple[int, ...]]:
    """Indices of the clips in each bucket, from the bucket of each clip; those without one are left out."""
    sorted_: dict[Bucket, list[int]] = {}
    for index, bucket in enumerate(buckets):
        if bucket is not None:
            sorted_.setdefault(bucket, []).append(index)
    return {bucket: tuple(sorted_[bucket]) for bucket in sorted(sorted_)}


def _inside(length: int, data: ClipsData) -> int:
    return length if length == 1 else length - 2 * data.skip_ends


def _interval(fps: float, data: ClipsData) -> float:
    return float(data.stride) if data.fps is None else fps / data.fps
