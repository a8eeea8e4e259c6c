"""Flicker and motion by their laws; PSNR and SSIM against a reference of another size or length."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cogworks.errors import VideoError
from cogworks.evaluation.figures.measures import reference_measures, temporal_measures
from cogworks.evaluation.figures.metrics import psnr, ssim
from cogworks.video import resize_frames


def flat(levels: list[int], side: int = 8) -> NDArray[np.uint8]:
    return np.array(levels, np.uint8)[:, None, None, None] * np.ones((1, side, side, 3), np.uint8)


def moving_square(frames: int = 9, side: int = 6, step: int = 1, size: int = 32) -> NDArray[np.uint8]:
    clip = np.full((frames, size, size, 3), 40, np.uint8)
    for index in range(frames):
        clip[index, 10 : 10 + side, 4 + step * index : 4 + step * index + side] = 200
    return clip


def noise(seed: int, shape: tuple[int, ...] = (6, 16, 20, 3)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_a_still_clip_has_neither() -> None:
    assert temporal_measures(np.repeat(noise(0, (1, 8, 8, 3)), 5, axis=0)) == {"flicker": 0, "motion": 0}


@pytest.mark.parametrize("amplitude", [1, 37, 255])
def test_alternating_brightness_is_flicker_alone(amplitude: int) -> None:
    assert temporal_measures(flat([0, amplitude, 0, amplitude, 0])) == {"flicker": amplitude, "motion": 0}


def test_a_fade_is_motion_alone() -> None:
    assert temporal_measures(flat([0, 10, 20, 30, 40, 50])) == {"flicker": 0, "motion": 10}


def test_an_object_that_moves_is_motion_alone() -> None:
    found = temporal_measures(moving_square(step=2))
    assert found["flicker"] == 0
    # Each step 6 x 2 pixels are covered and as many uncovered, by 160 levels, and none of it goes back at once.
    assert found["motion"] == pytest.approx(2 * 6 * 2 * 160 / 32**2)


def test_what_is_faster_or_larger_moves_more() -> None:
    slow, fast, large = (temporal_measures(moving_square(**how))["motion"] for how in ({}, {"step": 2}, {"side": 9}))
    assert slow < large < fast


def test_flicker_is_found_on_top_of_motion() -> None:
    clip = moving_square()
    lamp = clip.copy()
    lamp[::2] += 20
    with_lamp, without = temporal_measures(lamp), temporal_measures(clip)
    assert with_lamp["flicker"] == pytest.approx(20, rel=0.05)
    assert with_lamp["motion"] == pytest.approx(without["motion"], rel=0.1)


def test_both_together_are_the_difference_of_neighbouring_frames() -> None:
    clip = noise(1)
    found = temporal_measures(clip)
    differences = np.abs(np.diff(clip.astype(float), axis=0)).mean(axis=(1, 2, 3))
    around_inner_frames = (differences[:-1] + differences[1:]).mean() / 2
    assert found["flicker"] + found["motion"] == pytest.approx(around_inner_frames)


def test_time_backwards_and_channels_in_another_order_change_nothing() -> None:
    clip = noise(2)
    assert temporal_measures(clip[::-1]) == pytest.approx(temporal_measures(clip))
    assert temporal_measures(clip[..., ::-1]) == pytest.approx(temporal_measures(clip))


def test_a_short_clip_has_no_measures() -> None:
    assert temporal_measures(noise(3)[:2]) == {}
    with pytest.raises(VideoError, match="frames"):
        temporal_measures(noise(3)[0])


def test_an_equal_reference() -> None:
    assert reference_measures(noise(4), noise(4)) == {"PSNR": 100.0, "SSIM": pytest.approx(1)}


def test_another_reference_is_measured_frame_by_frame() -> None:
    a, b = noise(5), noise(6)
    assert reference_measures(a, b) == {"PSNR": psnr(a, b), "SSIM": ssim(a, b)}
    assert reference_measures(a, b[::-1]) != reference_measures(a, b)


def test_the_longer_one_is_cut_at_the_end() -> None:
    a, b = noise(7), noise(8)
    assert reference_measures(a, b[:4]) == reference_measures(a[:4], b[:4])
    assert reference_measures(a[:4], b) == reference_measures(a[:4], b[:4])


def test_a_reference_of_another_size_is_fitted() -> None:
    a, b = noise(9), noise(10, (6, 40, 30, 3))
    assert reference_measures(a, b) == reference_measures(a, resize_frames(b, 16, 20))
