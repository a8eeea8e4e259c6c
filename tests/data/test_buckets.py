"""Which frames are taken and which bucket a clip goes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cogworks.config.training_data import Bucket, ClipsData
from cogworks.data.buckets import choose_bucket, choose_frames, sort_by_bucket, usable_frames, why_no_bucket
from cogworks.errors import DataError

SHAPES = ((9, 480, 720), (9, 720, 480), (17, 480, 720), (49, 480, 720), (1, 480, 720), (1, 96, 96))


def data(sizes: tuple[tuple[int, int, int], ...] = SHAPES, **values: Any) -> ClipsData:
    return ClipsData(kind="clips", source=Path("x"), sizes=tuple(Bucket(*size) for size in sizes), **values)


recipes = st.builds(
    data,
    fps=st.none() | st.floats(0.5, 60),
    start=st.sampled_from(["first", "middle", "random"]),
    short_clips=st.sampled_from(["skip", "pad"]),
    skip_ends=st.integers(0, 4),
) | st.builds(data, stride=st.integers(1, 6), start=st.just("random"))


@given(st.integers(1, 200), st.floats(1, 120), recipes, st.integers(1, 60), st.floats(0, 1, exclude_max=True))
def test_frames_lie_inside_and_evenly(length: int, fps: float, recipe: ClipsData, count: int, draw: float) -> None:
    usable = usable_frames(length, fps, recipe)
    enough = usable >= count or (usable and recipe.short_clips == "pad")
    if not enough:
        with pytest.raises(DataError, match="asked for"):
            choose_frames(length, fps, recipe, count, draw)
        return
    frames = choose_frames(length, fps, recipe, count, draw)
    ends = recipe.skip_ends if length > 1 else 0
    interval = recipe.stride if recipe.fps is None else fps / recipe.fps
    assert frames.shape == (count,)
    assert ends <= frames[0]
    assert frames[-1] < length - ends
    real = frames[: min(count, usable)]
    assert np.abs(real - real[0] - np.arange(len(real)) * interval).max() <= 0.5 + 1e-6
    assert (frames[len(real) :] == real[-1]).all()


@given(st.integers(1, 300), st.floats(1, 120), recipes)
def test_one_more_frame_than_usable_does_not_fit(length: int, fps: float, recipe: ClipsData) -> None:
    assume(recipe.short_clips == "skip")
    usable = usable_frames(length, fps, recipe)
    if usable:
        choose_frames(length, fps, recipe, usable)
    with pytest.raises(DataError):
        choose_frames(length, fps, recipe, usable + 1)


@pytest.mark.parametrize("fps", [7.95, 7.999, 8.0, 8.001, 8.05])
def test_a_rate_that_is_nearly_the_same_takes_every_frame(fps: float) -> None:
    assert choose_frames(49, fps, data(fps=8.0), 49).tolist() == list(range(49))


@pytest.mark.parametrize(
    ("start", "draw", "first"), [("first", 0.9, 0), ("middle", 0.9, 10), ("random", 0.0, 0), ("random", 0.9999, 21)]
)
def test_where_frames_begin(start: str, draw: float, first: int) -> None:
    recipe = data(fps=8, start=start)
    assert choose_frames(46, 24.0, recipe, 9, draw).tolist() == list(range(first, first + 25, 3))


def test_every_start_is_as_likely() -> None:
    recipe = data(start="random")
    starts = [int(choose_frames(12, 8.0, recipe, 9, draw)[0]) for draw in np.arange(0, 1, 1 / 4000)]
    assert np.bincount(starts).tolist() == [1000] * 4


@pytest.mark.parametrize(("length", "rate", "count"), [(200, 24, 49), (500, 30, 49), (130, 16, 49), (90, 8, 17)])
def test_the_choice_of_sat_for_long_clips(length: int, rate: int, count: int) -> None:
    """SAT for n / r * f > M: start k, end k + int(M / f * r), every ((end - start) // M)-th, truncated to M."""
    fps, skip = 8, 3
    assert length / rate * fps > count
    end = skip + int(count / fps * rate)
    theirs = np.arange(skip, end, (end - skip) // count)[:count]
    stride = int(count / fps * rate) // count
    recipe = data(stride=stride, start="first", skip_ends=skip, short_clips="pad")
    assert choose_frames(length, rate, recipe, count).tolist() == theirs.tolist()
    by_rate = data(fps=float(fps), start="first", skip_ends=skip, short_clips="pad")
    same = rate % fps == 0
    assert (choose_frames(length, rate, by_rate, count).tolist() == theirs.tolist()) == same


def test_padding_repeats_the_last_usable_frame() -> None:
    recipe = data(short_clips="pad", skip_ends=2)
    assert choose_frames(9, 8.0, recipe, 8).tolist() == [2, 3, 4, 5, 6, 6, 6, 6]
    with pytest.raises(DataError, match="4 frames without 2 at each end give 0, fewer"):
        choose_frames(4, 8.0, recipe, 8)


def test_pictures_have_no_ends() -> None:
    assert choose_frames(1, 1.0, data(skip_ends=3, fps=8.0), 1).tolist() == [0]


@pytest.mark.parametrize(
    ("length", "height", "width", "bucket"),
    [
        (100, 1080, 1920, (49, 480, 720)),
        (48, 1080, 1920, (17, 480, 720)),
        (16, 1080, 1920, (9, 480, 720)),
        (16, 1920, 1080, (9, 720, 480)),
        (8, 480, 720, (1, 480, 720)),
        (1, 2000, 3000, (1, 480, 720)),
        (1, 90, 100, (1, 96, 96)),
        (1, 600, 600, (1, 480, 720)),
    ],
)
def test_buckets(length: int, height: int, width: int, bucket: tuple[int, int, int]) -> None:
    assert choose_bucket(length, height, width, 8.0, data()) == bucket


def test_a_clip_without_bucket() -> None:
    sizes = ((9, 8, 8), (17, 8, 8))
    assert choose_bucket(8, 8, 8, 8.0, data(sizes)) is None
    assert choose_bucket(8, 8, 8, 8.0, data(sizes, short_clips="pad")) == (9, 8, 8)
    assert choose_bucket(16, 8, 8, 8.0, data(sizes, short_clips="pad")) == (9, 8, 8), "no need to pad"
    assert choose_bucket(20, 8, 8, 24.0, data(sizes, fps=8.0)) is None
    assert choose_bucket(1, 8, 8, 1.0, data(sizes, short_clips="pad")) is None, "a still is no clip of nine frames"
    assert "picture" in why_no_bucket(1, 1.0, data(sizes))
    assert "20 frames at 24 frames a second, taken at 8, give 7, and" in why_no_bucket(20, 24.0, data(sizes, fps=8.0))


@given(st.integers(2, 300), st.integers(1, 4000), st.integers(1, 4000), st.floats(1, 60), recipes)
def test_a_clip_can_be_read_in_its_bucket(length: int, height: int, width: int, fps: float, recipe: ClipsData) -> None:
    bucket = choose_bucket(length, height, width, fps, recipe)
    if bucket is None:
        with pytest.raises(DataError):
            choose_frames(length, fps, recipe, min(each.frames for each in recipe.sizes))
    else:
        choose_frames(length, fps, recipe, bucket.frames)


def test_sorted_by_bucket() -> None:
    a, b = Bucket(9, 8, 8), Bucket(1, 8, 8)
    assert list(sort_by_bucket([a, None, b, a]).items()) == [(b, (2,)), (a, (0, 3))]
