"""Checking clips: every fault is found, none hides another, and nothing is made up."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogworks.config.training_data import Bucket, ClipsData
from cogworks.data import check
from cogworks.data.check import CheckReport, Look, check_clips, look_at
from cogworks.data.clip import Clip
from cogworks.data.clips import find_clips
from cogworks.data.histogram import MAX_BARS, draw_histograms, number_bars
from cogworks.errors import DataError
from cogworks.video import Video, read_image
from cogworks.video.chosen import Extent
from helpers.little_clips import numbered, save_clip, touch


def save(folder: Path, name: str, frames: np.ndarray, caption: str = "a") -> Clip:
    path = folder / name
    Video(frames, 8).save(path)
    path.with_suffix(".txt").write_text(caption)
    return Clip(name, caption, path)


def kinds(report: CheckReport) -> dict[str, str]:
    return {problem.name: problem.kind for problem in report.problems}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good clips and one of each fault."""
    rng = np.random.default_rng(0)
    save_clip(tmp_path / "good1.mp4", 9, caption="a good clip")
    save_clip(tmp_path / "good2.webm", 17, 48, 64, fps=16, caption="another good clip")
    (tmp_path / "twin.mp4").write_bytes((tmp_path / "good1.mp4").read_bytes())
    touch(tmp_path / "twin.txt", "a good clip")
    save(tmp_path, "black.mp4", rng.integers(0, 12, (9, 32, 48, 3)).astype(np.uint8))
    save(tmp_path, "frozen.mp4", np.repeat(rng.integers(0, 256, (1, 32, 48, 3)).astype(np.uint8), 9, 0))
    save(tmp_path, "silent.mp4", numbered(9, 40, 40), caption=" \n")
    touch(tmp_path / "noise.mp4", b"noise")
    touch(tmp_path / "noise.txt", "noise")
    save_clip(tmp_path / "uncaptioned.mp4", 9)
    touch(tmp_path / "unclipped.txt", "nothing")
    save_clip(tmp_path / "short.mp4", 5, caption="too short")
    return tmp_path


EXPECTED = {
    "uncaptioned.mp4": "unpaired",
    "unclipped.txt": "unpaired",
    "black.mp4": "black",
    "frozen.mp4": "frozen",
    "noise.mp4": "unreadable",
    "silent.mp4": "empty caption",
    "twin.mp4": "duplicate",
    "short.mp4": "fits no size",
}


def test_every_fault_is_found(folder: Path) -> None:
    data = ClipsData(kind="clips", source=folder, sizes=(Bucket(9, 32, 48), Bucket(49, 32, 48)))
    told: list[tuple[int, int]] = []
    report = check_clips(find_clips(folder), data, on_progress=lambda *each: told.append(each))
    assert kinds(report) == EXPECTED
    assert len(report.problems) == len(EXPECTED)
    assert report.buckets == {(9, 32, 48): 6, (49, 32, 48): 0}
    assert told[-1] == (8, 8)
    assert {extent.num_frames for extent in report.extents} == {5, 9, 17}
    assert report.repeated_captions == 2  # the twin's, and "a" of black and frozen
    assert report.counts()["unpaired"] == 2


def test_a_clip_slower_than_the_recipe_is_named(tmp_path: Path) -> None:
    for fps in (8, 7.9, 6):
        save_clip(tmp_path / f"{fps}.mp4", 9 + int(fps), fps=fps, caption=f"{fps}")
    data = ClipsData(kind="clips", source=tmp_path, sizes=(Bucket(9, 32, 48),), fps=8)
    assert kinds(check_clips(find_clips(tmp_path), data)) == {"6.mp4": "too slow"}


@pytest.mark.dist
def test_processes_find_the_same(folder: Path) -> None:
    clips = find_clips(folder)
    assert check_clips(clips, workers=2) == check_clips(clips)


def test_good_clips_have_no_problem(tmp_path: Path) -> None:
    save_clip(tmp_path / "a.mp4", caption="a")
    save_clip(tmp_path / "b.mp4", 10, caption="b")
    assert check_clips(find_clips(tmp_path)).problems == ()


@pytest.mark.parametrize("ending", ["mp4", "webm"])
def test_a_small_thing_that_moves_is_not_frozen(tmp_path: Path, ending: str) -> None:
    """The control of frozen: 6 pixels square of 320x240, going 3 pixels a frame."""
    frames = np.full((9, 240, 320, 3), 120, np.uint8)
    frames += np.random.default_rng(0).integers(0, 8, frames.shape[1:], dtype=np.uint8)
    still = frames.copy()
    for index in range(9):
        frames[index, 100:106, 3 * index : 3 * index + 6] = (225, 40, 40)
    assert not look_at(save(tmp_path, f"moves.{ending}", frames)).is_frozen
    assert look_at(save(tmp_path, f"still.{ending}", still)).is_frozen


def test_a_dark_scene_with_a_light_is_not_black(tmp_path: Path) -> None:
    frames = np.zeros((5, 64, 64, 3), np.uint8)
    frames[2:, 20:30, 20:30] = 90
    look = look_at(save(tmp_path, "night.mp4", frames))
    assert not look.is_black
    assert look_at(save(tmp_path, "black.mp4", frames * 0)).is_black


def test_a_picture_is_not_frozen(tmp_path: Path) -> None:
    Image.fromarray(numbered(9)[8]).save(tmp_path / "a.png")
    assert look_at(Clip("a", "a", tmp_path / "a.png")) == Look(
        Extent(1, 32, 48, 1.0), Clip("a", "a", tmp_path / "a.png").content_hash(), None
    )


def test_a_clip_that_ends_early_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clip = save(tmp_path, "a.mp4", rng.integers(0, 256, (31, 64, 64, 3)).astype(np.uint8))
    data = clip.file.read_bytes()
    clip.file.write_bytes(data[: len(data) // 2])
    look = look_at(clip)
    assert look.extent is not None
    assert 0 < look.extent.num_frames < 31
    assert look.unreadable is not None


def _dies(clip: Clip) -> Look:
    if clip.name == "killer":
        os._exit(1)
    return look_at(clip)


@pytest.mark.dist
@pytest.mark.slow
def test_what_kills_the_process_is_one_bad_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_clip(tmp_path / "a.mp4")
    names = ["a", "killer", "b"]
    clips = tuple(Clip(name, "a", path) for name in names)
    monkeypatch.setattr(check, "look_at", _dies)
    looks = dict(check._in_processes(clips, 1))
    assert {index: look.extent is None for index, look in looks.items()} == {0: False, 1: True, 2: False}
    assert "kills the process" in str(looks[1].unreadable)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp"])
def test_histograms(folder: Path, ending: str) -> None:
    path = folder / f"picture{ending}"
    draw_histograms(check_clips(find_clips(folder)), path)
    picture = read_image(path)
    assert picture.shape[1] == 960
    blue = (picture[..., 2].astype(int) - picture[..., 0] > 60).mean()
    assert 0.02 < blue < 0.5


def test_histograms_of_nothing(tmp_path: Path) -> None:
    draw_histograms(CheckReport((), (), (), {}), tmp_path / "a.png")
    with pytest.raises(DataError, match=r"ends in \.png"):
        draw_histograms(CheckReport((), (), (), {}), tmp_path / "a.mp4")
    with pytest.raises(DataError, match="folder is not there"):
        draw_histograms(CheckReport((), (), (), {}), tmp_path / "missing" / "a.png")


@pytest.mark.parametrize("values", [[5], [1, 1, 2], [1, 1000], list(range(100)), [0, 15], [0, 16]], ids=str)
def test_bars_hold_all_values(values: list[int]) -> None:
    bars = number_bars(values)
    assert len(bars) <= MAX_BARS
    assert sum(count for _, count in bars) == len(values)
    for label, count in bars:
        low, _, high = label.partition("-")
        assert count == sum(int(low) <= value <= int(high or low) for value in values)


@pytest.mark.parametrize(
    "make", [lambda path: path.mkdir(), lambda path: path.symlink_to("nowhere")], ids=["folder", "link"]
)
def test_what_is_no_file_under_a_clips_name(tmp_path: Path, make: Callable[[Path], None]) -> None:
    save_clip(tmp_path / "good.mp4", caption="a")
    make(tmp_path / "bad.mp4")
    touch(tmp_path / "bad.txt", "b")
    report = check_clips(find_clips(tmp_path))
    assert list(kinds(report)) == (["bad.mp4"] if (tmp_path / "bad.mp4").is_symlink() else ["bad.txt"])
