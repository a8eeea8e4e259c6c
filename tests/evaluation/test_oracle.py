"""The oracle reads clean, encoded, blurred and otherwise sampled clips right, and says None where there is nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from cogworks.data.shapes import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    NOVEL_SHAPES,
    SHAPES,
    Scene,
    SceneObject,
    distinguishable,
    draw_scene,
    render_scene,
)
from cogworks.errors import VideoError
from cogworks.evaluation.shapes.oracle import ObjectReading, Reading, read, read_objects
from cogworks.video import Video, read_video, write_video

Degrade = Callable[[np.ndarray], np.ndarray]


def all_scenes(shapes: tuple[str, ...] = SHAPES, step: int = 1) -> Iterator[tuple[Scene, Reading]]:
    """Every `step`-th combination of shape, colour, motion, background and size, with a position of its own."""
    rng = np.random.default_rng(len(shapes))
    combinations = itertools.product(shapes, COLOURS, MOTIONS, BACKGROUNDS, (("small", 12.0), ("large", 16.0)))
    visible = (combination for combination in combinations if distinguishable(combination[1], combination[3]))
    for shape, colour, motion, background, (size, radius) in itertools.islice(visible, 0, None, step):
        x, y, turn = rng.uniform(-1, 1, 3)
        item = SceneObject(shape, colour, motion, size, (4 * x, 4 * y), radius, phase=np.pi * turn)
        yield Scene((item,), background, ""), Reading(shape, colour, motion, background)


def share_right(scenes: Iterator[tuple[Scene, Reading]], degrade: Degrade = lambda frames: frames) -> float:
    right = [read(degrade(render_scene(scene, 64, 64, 17, 8))) == truth for scene, truth in scenes]
    return sum(right) / len(right)


def blur(frames: np.ndarray, radius: float) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(radius))) for frame in frames])


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def blur_and_noise(frames: np.ndarray) -> np.ndarray:
    """Worse than a 30 dB reconstruction."""
    noise = np.random.default_rng(0).normal(0, 6, frames.shape)
    return np.clip(blur(frames, 1.2) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES + NOVEL_SHAPES)
def test_clean_clips_are_read_right(shape: str) -> None:
    assert share_right(all_scenes((shape,), step=29)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("shapes", [SHAPES, NOVEL_SHAPES])
def test_every_clean_clip_is_read_right(shapes: tuple[str, ...]) -> None:
    assert share_right(all_scenes(shapes)) >= 0.995


@pytest.mark.parametrize("shape", SHAPES + NOVEL_SHAPES)
def test_blurred_and_noisy_clips_are_read_right(shape: str) -> None:
    degraded = []

    def degrade(frames: np.ndarray) -> np.ndarray:
        degraded.append(psnr(worse := blur_and_noise(frames), frames))
        return worse

    assert share_right(all_scenes((shape,), step=41), degrade) >= 0.98
    assert np.mean(degraded) < 30


def through_mp4(folder: Path) -> Degrade:
    def degrade(frames: np.ndarray) -> np.ndarray:
        write_video(folder / "clip.mp4", Video(frames, 8))
        return read_video(folder / "clip.mp4").frames

    return degrade


@pytest.mark.parametrize("shape", SHAPES + NOVEL_SHAPES)
def test_encoded_clips_are_read_right(shape: str, tmp_path: Path) -> None:
    assert share_right(all_scenes((shape,), step=61), through_mp4(tmp_path)) >= 0.98


@pytest.mark.slow
@pytest.mark.parametrize(("shapes", "step"), [(SHAPES, 3), (NOVEL_SHAPES, 1)])
def test_every_encoded_clip_is_read_right(shapes: tuple[str, ...], step: int, tmp_path: Path) -> None:
    assert share_right(all_scenes(shapes, step), through_mp4(tmp_path)) >= 0.98


@pytest.mark.parametrize(
    ("num_frames", "fps", "height", "width"),
    [(9, 8, 64, 64), (33, 16, 64, 64), (49, 8, 64, 64), (5, 2, 64, 64), (17, 8, 64, 112), (13, 8, 48, 48)],
)
def test_other_lengths_rates_and_sizes(num_frames: int, fps: int, height: int, width: int) -> None:
    for scene, truth in all_scenes(step=307):
        assert read(render_scene(scene, height, width, num_frames, fps)) == truth


@pytest.mark.parametrize(("shape", "number"), [(None, 25), ("heart", 8)])
def test_two_objects(shape: str | None, number: int) -> None:
    for index in range(number):
        scene = draw_scene(1, index, split="any", num_objects=2, shape=shape)
        objects, background = read_objects(render_scene(scene, 64, 64, 17, 8), 2)
        assert {(seen.shape, seen.colour, seen.motion) for seen in objects} == {item.triple for item in scene.objects}
        assert background == scene.background


def test_an_empty_clip_has_a_background_and_no_object() -> None:
    frames = np.full((9, 64, 64, 3), 110, np.uint8)
    assert read(frames) == Reading(None, None, None, "gray")
    nothing = ObjectReading(None, None, None)
    assert read_objects(frames, 2) == ([nothing, nothing], "gray")


def test_one_object_is_not_two() -> None:
    scene = draw_scene(0, 0, num_objects=1)
    objects, _ = read_objects(render_scene(scene, 64, 64, 17, 8), 2)
    assert sum(seen.shape is not None for seen in objects) == 1


def test_what_fits_no_word_is_none() -> None:
    frames = np.zeros((17, 64, 64, 3), np.uint8)
    frames[:, 28:36, 8:56] = (225, 40, 40)
    assert read(frames) == Reading(None, "red", "still", "black")  # a bar
    frames = np.zeros((17, 64, 64, 3), np.uint8)
    frames[...] = (60, 160, 60)
    frames[:, 20:44, 20:44] = (245, 245, 245)
    assert read(frames).background is None  # green
    frames = np.zeros((17, 64, 64, 3), np.uint8)
    frames[:, 20:44, 20:44] = (100, 70, 20)
    assert read(frames) == Reading(None, None, None, "black")  # a brown square


def test_motions_that_have_no_word() -> None:
    scene = Scene((SceneObject("circle", "red", "orbits", "small", (0.0, 0.0), 12.0),), "black", "")
    frames = render_scene(scene, 64, 64, 17, 8)
    assert read(frames).motion == "orbits"
    assert read(frames[::-1]).motion is None  # anticlockwise
    right = render_scene(
        Scene((SceneObject("circle", "red", "right", "small", (0.0, 0.0), 12.0),), "black", ""), 64, 64, 17, 8
    )
    assert read(right).motion == "right"
    diagonal = np.stack([np.roll(frame, round(1.375 * index) - 11, axis=0) for index, frame in enumerate(right)])
    assert read(diagonal).motion is None
    assert read(right[:1]).motion is None  # one frame does not move
    flicker = frames.copy()
    flicker[::2] = 0
    assert read(flicker).motion is None  # there only half of the time


def test_reversing_time_turns_the_motion_round() -> None:
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up", "grows": "shrinks", "shrinks": "grows"}
    for motion, expected in opposite.items():
        scene = Scene((SceneObject("star", "cyan", motion, "large", (1.0, -2.0), 16.0),), "gradient", "")
        assert read(render_scene(scene, 64, 64, 17, 8)[::-1]).motion == expected


def test_noise_is_no_object_of_this_world() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (17, 64, 64, 3), dtype=np.uint8)
    assert None in vars(read(frames)).values()
    with pytest.raises(VideoError, match="uint8"):
        read(frames / 255)
