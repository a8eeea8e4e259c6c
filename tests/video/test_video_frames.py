"""Frames: pixels in [-1, 1] and back, sizes, contact sheets."""

from __future__ import annotations

import hashlib
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cogworks.errors import VideoError
from cogworks.video import (
    Video,
    contact_sheet,
    hash_frames,
    resize_frames,
    to_frames,
    to_pixels,
    upscale_frames,
)
from cogworks.video.frames import Fit


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_pixels_and_frames_are_inverse() -> None:
    frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    pixels = to_pixels(frames)
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.float32, (1, 3, 1, 16, 16))
    assert (pixels.min(), pixels.max()) == (-1, 1)
    np.testing.assert_array_equal(to_frames(pixels), frames)


def test_layout_is_channel_first() -> None:
    frames = noise(2, 4, 6, 3)
    pixels = to_pixels(frames)
    assert pixels[0, 2, 1, 3, 5].item() == pytest.approx(frames[1, 3, 5, 2] / 127.5 - 1)
    np.testing.assert_array_equal(to_frames(pixels), frames)


def test_to_frames_rounds_and_clips() -> None:
    levels = torch.tensor([-50.0, 0.49, 0.51, 254.6, 300.0])
    pixels = (levels / 127.5 - 1).expand(1, 3, 1, 1, 5)
    assert to_frames(pixels)[0, 0, :, 0].tolist() == [0, 0, 1, 255, 255]
    assert to_frames(pixels.to(torch.bfloat16)).dtype == np.uint8


def test_to_frames_refuses_other_shapes_and_nan() -> None:
    for shape in ((3, 2, 4, 4), (2, 3, 2, 4, 4), (1, 4, 2, 4, 4)):
        with pytest.raises(VideoError, match="pixels must be"):
            to_frames(torch.zeros(shape))
    with pytest.raises(VideoError, match="NaN"):
        to_frames(torch.full((1, 3, 1, 2, 2), float("nan")))


def test_resize_stretches_or_crops() -> None:
    frames = np.zeros((2, 40, 80, 3), np.uint8)
    frames[:, :, 20:60] = 255  # the middle square is white
    cropped = resize_frames(frames, 20, 20, "crop")
    stretched = resize_frames(frames, 20, 20, "stretch")
    assert cropped.shape == stretched.shape == (2, 20, 20, 3)
    assert (cropped[:, :, 1:-1] == 255).all()
    assert (stretched[:, :, :4] == 0).all()
    assert (stretched[:, :, 8:12] == 255).all()
    tall = resize_frames(frames, 40, 10, "crop")
    assert (tall == 255).all()
    assert resize_frames(frames, 40, 80) is frames


def today(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pillow's bicubic filter over the whole picture."""
    pictures = [Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in frames]
    return np.stack([np.asarray(picture) for picture in pictures])


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(("height", "width"), [(21, 28), (60, 80), (120, 160), (9, 12), (3, 4)])
def test_the_same_aspect_is_the_same_in_every_fit(fit: Fit, height: int, width: int) -> None:
    frames = noise(2, 60, 80, 3)
    np.testing.assert_array_equal(resize_frames(frames, height, width, fit), today(frames, height, width))


def test_pad_keeps_everything_between_black_bars() -> None:
    frames = np.full((2, 40, 80, 3), 255, np.uint8)
    square = resize_frames(frames, 20, 20, "pad")
    assert (square[:, 5:15] == 255).all()
    assert not square[:, :5].any()
    assert not square[:, 15:].any()
    wide = resize_frames(frames, 40, 101, "pad")
    np.testing.assert_array_equal(wide[:, :, 10:90], frames)
    assert not wide[:, :, :10].any()
    assert not wide[:, :, 90:].any()
    assert resize_frames(np.full((1, 1, 1000, 3), 9, np.uint8), 4, 4, "pad").max() == 9  # a thread stays visible


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.sampled_from(get_args(Fit)))
def test_every_size_becomes_every_other(old_height: int, old_width: int, height: int, width: int, fit: Fit) -> None:
    frames = np.full((1, old_height, old_width, 3), 200, np.uint8)
    resized = resize_frames(frames, height, width, fit)
    assert resized.shape == (1, height, width, 3)
    assert set(np.unique(resized)) <= ({0, 200} if fit == "pad" else {200})


def test_crop_takes_the_middle() -> None:
    frames = noise(2, 40, 80, 3)
    inside = np.s_[:, :, 2:-2]  # at its sides the filter sees what is cut away
    np.testing.assert_array_equal(resize_frames(frames, 20, 20)[inside], today(frames[:, :, 20:60], 20, 20)[inside])
    np.testing.assert_array_equal(resize_frames(frames, 40, 20), frames[:, :, 30:50])


def waves(height: int, width: int, factor: int = 1) -> np.ndarray:
    """One and the same smooth picture, `factor` pixels for one."""
    y, x = (np.mgrid[: height * factor, : width * factor] + 0.5) / factor
    return np.stack([128 + 100 * np.sin(x), 128 + 100 * np.cos(y), 128 + 60 * np.sin(x + y)], -1).round()[None]


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_upscaling_finds_the_picture_between_the_pixels(factor: int) -> None:
    frames = waves(24, 32).astype(np.uint8)
    truth = waves(24, 32, factor)

    def error(large: np.ndarray) -> float:
        assert large.shape == truth.shape
        inner = np.s_[:, 4 * factor : -4 * factor, 4 * factor : -4 * factor]
        return float(np.abs(large - truth)[inner].mean())

    bicubic = error(resize_frames(frames, 24 * factor, 32 * factor))
    assert error(upscale_frames(frames, factor)) < 0.75 * bicubic
    assert upscale_frames(frames, 1) is frames


@pytest.mark.parametrize("factor", [0, -1, 9, 2.0, True, "2", None])
def test_upscaling_refuses_other_factors(factor: object) -> None:
    with pytest.raises(VideoError, match="whole factor from 1 to 8"):
        upscale_frames(noise(1, 4, 4, 3), factor)  # type: ignore[arg-type]


def test_upscaling_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cogworks.video.frames.MAX_FRAME_BYTES", 4 * 4 * 3 * 4)
    upscale_frames(noise(1, 4, 4, 3), 2)
    with pytest.raises(VideoError, match="GiB"):
        upscale_frames(noise(1, 4, 4, 3), 3)


def test_hashes_are_of_shape_and_pixels() -> None:
    frames = noise(2, 4, 6, 3)
    assert hash_frames(frames) == hashlib.sha256(b"2x4x6x3" + frames.tobytes()).hexdigest()
    assert hash_frames(np.asfortranarray(frames)) == hash_frames(frames[::-1][::-1]) == hash_frames(frames)
    assert hash_frames(frames.reshape(2, 6, 4, 3)) != hash_frames(frames)
    other = frames.copy()
    other[1, 3, 5, 2] ^= 1
    assert hash_frames(other) != hash_frames(frames)
    with pytest.raises(VideoError, match="uint8"):
        hash_frames(frames.astype(float))  # type: ignore[arg-type]


def test_shrinking_averages_instead_of_skipping() -> None:
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 200
    assert np.abs(resize_frames(stripes, 16, 16)[:, 2:-2, 2:-2].astype(int) - 100).max() < 5


def test_resize_refuses_bad_requests() -> None:
    with pytest.raises(VideoError, match="cannot resize"):
        resize_frames(noise(1, 4, 4, 3), 0, 4)
    with pytest.raises(VideoError, match="cannot resize"):
        resize_frames(noise(1, 4, 4, 3), 4, 4, "fill")  # type: ignore[arg-type]


def test_contact_sheet_shows_first_to_last() -> None:
    frames = np.zeros((9, 4, 6, 3), np.uint8) + np.arange(9, dtype=np.uint8)[:, None, None, None]
    sheet = contact_sheet([Video(frames, 8), Video(frames[:2], 8)], columns=5)
    assert sheet.shape == (2 + 2 * 6, 2 + 5 * 8, 3)
    assert sheet[3, 3::8, 0].tolist() == [0, 2, 4, 6, 8]
    assert sheet[9, 3::8, 0].tolist() == [0, 1, 255, 255, 255]
    with pytest.raises(VideoError, match="contact sheet needs"):
        contact_sheet([])
