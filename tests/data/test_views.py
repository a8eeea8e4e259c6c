"""Views: the frames and the part of the picture that a recipe asks for, the same for the same key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogworks.config.training_data import Bucket, ClipsData
from cogworks.data.clip import Clip
from cogworks.data.views import read_image_view, read_view
from cogworks.errors import DataError, VideoError
from cogworks.video import Video, resize_frames
from helpers.little_clips import frame_numbers, save_clip


def data(*sizes: tuple[int, int, int], **values: Any) -> ClipsData:
    return ClipsData(kind="clips", source=Path("x"), sizes=tuple(Bucket(*size) for size in sizes), **values)


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    return Clip("a.mp4", "a", save_clip(tmp_path / "a.mp4", 25, fps=24))


def ramp(height: int = 32, width: int = 64) -> np.ndarray:
    """Lighter from left to right, and green from the top down."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    frame[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    return frame


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ({"fps": 8.0}, [0, 3, 6, 9, 12, 15, 18, 21, 24]),
        ({"stride": 2, "start": "first"}, [0, 2, 4, 6, 8, 10, 12, 14, 16]),
        ({"start": "middle"}, list(range(8, 17))),
        ({"start": "first", "skip_ends": 3}, list(range(3, 12))),
        ({"fps": 6.0, "short_clips": "pad"}, [0, 4, 8, 12, 16, 20, 24, 24, 24]),
    ],
    ids=str,
)
def test_the_frames_asked_for(clip: Clip, asked: dict[str, Any], numbers: list[int]) -> None:
    bucket = Bucket(9, 32, 48)
    view = read_view(clip, data(bucket, **asked), bucket)
    assert (view.shape, view.dtype) == ((9, 32, 48, 3), np.uint8)
    assert frame_numbers(view) == numbers


def test_a_random_start_follows_its_key(clip: Clip) -> None:
    bucket = Bucket(9, 32, 48)
    recipe = data(bucket, start="random")
    starts = [frame_numbers(read_view(clip, recipe, bucket, 0, number))[0] for number in range(12)]
    assert starts == [frame_numbers(read_view(clip, recipe, bucket, 0, number))[0] for number in range(12)]
    assert len(set(starts)) > 4
    assert max(starts) <= 16


def test_crops(tmp_path: Path) -> None:
    path = tmp_path / "ramp.png"
    Image.fromarray(ramp()).save(path)
    clip, bucket = Clip("ramp.png", "a", path), Bucket(1, 16, 16)
    views = {crop: read_view(clip, data(bucket, crop=crop), bucket, 5)[0] for crop in ("centre", "random", "resize")}
    np.testing.assert_array_equal(views["centre"], resize_frames(ramp()[None], 16, 16)[0])
    np.testing.assert_array_equal(views["resize"], resize_frames(ramp()[None], 16, 16, "stretch")[0])
    assert views["resize"][..., 0].min() < 12
    lefts = [read_view(clip, data(bucket, crop="random"), bucket, key)[0, 0, 0, 0] for key in range(20)]
    assert min(lefts) < 20
    assert max(lefts) > 105
    np.testing.assert_array_equal(views["random"], read_view(clip, data(bucket, crop="random"), bucket, 5)[0])


def test_a_conditioning_image_is_cut_as_its_clip_is(tmp_path: Path) -> None:
    image = tmp_path / "ramp.png"
    Image.fromarray(ramp()).save(image)
    frames = np.repeat(ramp()[None], 3, 0)
    frames[1:, -1, -1] = (1, 2, 3), (4, 5, 6)  # frames that are all the same are stored as one
    Video(frames, 8).save(tmp_path / "ramp.webp")
    clip, bucket = Clip("ramp.webp", "a", tmp_path / "ramp.webp", image=image), Bucket(3, 16, 16)
    recipe = data(bucket, crop="random")
    for key in range(5):
        own = read_image_view(clip, recipe, bucket, key)
        assert own is not None
        assert np.abs(own.astype(int) - read_view(clip, recipe, bucket, key)[0]).max() <= 24  # of WebP
    assert read_image_view(Clip("a", "a", image), recipe, bucket) is None


def test_the_place_of_a_crop() -> None:
    frames = ramp()[None]
    np.testing.assert_array_equal(resize_frames(frames, 32, 32, place=0), frames[:, :, :32])
    np.testing.assert_array_equal(resize_frames(frames, 32, 32, place=1), frames[:, :, 32:])
    np.testing.assert_array_equal(
        resize_frames(frames.transpose(0, 2, 1, 3), 32, 32, place=1)[0], ramp()[:, 32:].transpose(1, 0, 2)
    )
    with pytest.raises(VideoError, match="place"):
        resize_frames(frames, 32, 32, place=1.5)


def test_bad_clips_are_named(clip: Clip, tmp_path: Path) -> None:
    bucket = Bucket(26, 32, 48)
    with pytest.raises(DataError, match=r"a\.mp4: 25 frames give 25, fewer than the 26"):
        read_view(clip, data(bucket), bucket)
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    with pytest.raises(VideoError, match=r"broken\.mp4"):
        read_view(Clip("b", "b", broken), data(bucket), bucket)
