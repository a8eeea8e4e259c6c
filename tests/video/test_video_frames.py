"""Frames: pixels in [-1, 1] and back, sizes, contact sheets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cogworks.errors import VideoError
from cogworks.video import Video, contact_sheet, resize_frames, to_frames, to_pixels


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
    stretched = resize_frames(frames, 20, 20)
    assert cropped.shape == stretched.shape == (2, 20, 20, 3)
    assert (cropped[:, :, 1:-1] == 255).all()
    assert (stretched[:, :, :4] == 0).all()
    assert (stretched[:, :, 8:12] == 255).all()
    tall = resize_frames(frames, 40, 10, "crop")
    assert (tall == 255).all()
    assert resize_frames(frames, 40, 80) is frames


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
