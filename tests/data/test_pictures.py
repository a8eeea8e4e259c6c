"""Clips of pictures of no world: the same ones again, as varied as photographs, moving as they should."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cogworks.data.pictures import render_picture_clip
from cogworks.data.shapes import MOTIONS

SIDE = 64


def clip(index: int, motion: str, frames: int = 17) -> NDArray[np.float32]:
    return render_picture_clip(3, index, SIDE, SIDE, frames, 8.0, motion).astype(np.float32)


def shift(before: NDArray[np.float32], after: NDArray[np.float32]) -> tuple[int, int]:
    """By how many pixels (down, right) the picture moved: the peak of the phase correlation."""
    window = np.outer(np.hanning(SIDE), np.hanning(SIDE))
    a, b = (np.fft.fft2((frame.mean(-1) - frame.mean()) * window) for frame in (before, after))
    cross = np.conj(a) * b
    peak = np.unravel_index(np.argmax(np.fft.ifft2(cross / (np.abs(cross) + 1e-3)).real), (SIDE, SIDE))
    down, right = ((int(place) + SIDE // 2) % SIDE - SIDE // 2 for place in peak)
    return down, right


def test_a_clip_is_a_function_of_seed_and_number() -> None:
    assert np.array_equal(clip(5, "left"), clip(5, "left"))
    assert not np.array_equal(clip(5, "left"), clip(6, "left"))


@pytest.mark.parametrize(
    ("motion", "way"), [("left", (0, -1)), ("right", (0, 1)), ("up", (-1, 0)), ("down", (1, 0)), ("still", (0, 0))]
)
def test_the_picture_moves_where_the_word_says(motion: str, way: tuple[int, int]) -> None:
    moved = [shift(frames[0], frames[8]) for frames in (clip(index, motion) for index in range(12))]
    assert sum(tuple(np.sign(each)) == way for each in moved) >= 11, moved  # a plain picture may fool the measure


def test_a_still_picture_does_not_change() -> None:
    frames = clip(1, "still")
    assert (frames == frames[0]).all()


@pytest.mark.parametrize(("motion", "begins_larger"), [("grows", False), ("shrinks", True)])
def test_what_grows_shows_the_middle_of_the_first_frame_enlarged(motion: str, begins_larger: bool) -> None:
    frames = clip(4, motion)
    small, large = (frames[-1], frames[0]) if begins_larger else (frames[0], frames[-1])
    middle = (np.arange(SIDE) - (SIDE - 1) / 2) / 1.3 + (SIDE - 1) / 2
    enlarged = small[np.ix_(middle.round().astype(int), middle.round().astype(int))]
    assert np.abs(enlarged - large).mean() < 0.35 * np.abs(small - large).mean()


@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_stays_on_the_canvas(motion: str) -> None:
    frames = render_picture_clip(0, 7, 48, 80, 33, 8.0, motion)
    assert frames.shape == (33, 48, 80, 3)


def test_pictures_are_varied_and_have_edges() -> None:
    firsts = np.stack([clip(index, "still", 1)[0] for index in range(40)])
    assert firsts.mean((1, 2, 3)).std() > 25  # bright ones and dark ones
    assert firsts.std((1, 2)).mean() > 15  # more than a plain colour
    neighbours = np.abs(np.diff(firsts, axis=2)).mean()
    assert 2 < neighbours < 30  # edges, not noise
