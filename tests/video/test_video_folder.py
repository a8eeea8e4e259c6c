"""A folder of png frames: written whole or not at all, read in order, never over somebody's files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogworks.errors import VideoError
from cogworks.video import StreamingWriter, Video, read_image, read_metadata, read_video, write_video
from cogworks.video import write as write_module


def noise(num_frames: int = 3, seed: int = 0, fps: float = 12.5) -> Video:
    return Video(np.random.default_rng(seed).integers(0, 256, (num_frames, 6, 10, 3), dtype=np.uint8), fps)


def test_frames_come_back_bit_for_bit(tmp_path: Path) -> None:
    video = noise(11)
    write_video(tmp_path / "frames" / "%04d.png", video, {"prompt": "漢字", "seed": 7})
    assert sorted(os.listdir(tmp_path / "frames")) == [f"{index:04d}.png" for index in range(11)]
    assert os.listdir(tmp_path) == ["frames"]
    np.testing.assert_array_equal(read_image(tmp_path / "frames" / "0002.png"), video.frames[2])
    for path in (tmp_path / "frames", tmp_path / "frames" / "%04d.png"):
        again = read_video(path)
        np.testing.assert_array_equal(again.frames, video.frames)
        assert again.fps == video.fps
        assert read_metadata(path) == {"prompt": "漢字", "seed": 7}
        assert read_video(path, max_frames=4).num_frames == 4


def test_counts_are_read_as_numbers(tmp_path: Path) -> None:
    video = noise(11)
    write_video(tmp_path / "frames" / "a 1.5 x%d.png", video)
    np.testing.assert_array_equal(read_video(tmp_path / "frames").frames, video.frames)  # 10 after 9, not after 1
    assert read_metadata(tmp_path / "frames") == {}


def test_a_person_s_own_folder_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    video = noise(3)
    for index, frame in enumerate(video.frames):
        Image.fromarray(frame).save(tmp_path / f"frame_{index + 98}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    again = read_video(tmp_path)
    np.testing.assert_array_equal(again.frames, video.frames)
    assert again.fps == 8
    assert "no frame rate" in caplog.text


def test_folders_that_are_no_video(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="without numbered png frames"):
        read_video(tmp_path)
    with pytest.raises(VideoError, match="no such folder"):
        read_video(tmp_path / "none" / "%04d.png")
    for name, size in (("0.png", 4), ("1.png", 5)):
        Image.new("RGB", (size, 4)).save(tmp_path / name)
    with pytest.raises(VideoError, match=r"1\.png has another size"):
        read_video(tmp_path)
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(VideoError, match=r"1\.png is empty"):
        read_video(tmp_path)
    (tmp_path / "1.png").write_bytes(b"text")
    with pytest.raises(VideoError, match=r"1\.png is no png"):
        read_video(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "other_1.png")
    with pytest.raises(VideoError, match="several rows"):
        read_video(tmp_path)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    pattern = tmp_path / "frames" / "%02d.png"
    write_video(pattern, noise(3))
    with pytest.raises(VideoError, match="holds frames; choose a new folder or replace"):
        write_video(pattern, noise(2, seed=1))
    assert read_video(pattern).num_frames == 3
    write_video(pattern, noise(2, seed=1), replace=True)
    np.testing.assert_array_equal(read_video(pattern).frames, noise(2, seed=1).frames)
    assert os.listdir(tmp_path) == ["frames"]


@pytest.mark.parametrize("replace", [False, True])
def test_other_files_are_never_replaced(tmp_path: Path, replace: bool) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.png").write_bytes(b"precious")
    (tmp_path / "photos" / "00.png").write_bytes(b"")
    with pytest.raises(VideoError, match="holds other files"):
        write_video(tmp_path / "photos" / "%02d.png", noise(), replace=replace)
    assert (tmp_path / "photos" / "holiday.png").read_bytes() == b"precious"
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(VideoError, match=f"cannot write .*{name}"):
            write_video(tmp_path / name / "%02d.png", noise(), replace=replace)
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "photos"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    write_video(tmp_path / "frames" / "%d.png", noise())
    assert len(os.listdir(tmp_path / "frames")) == 3
    assert os.listdir(tmp_path) == ["frames"]


def test_frames_need_a_folder_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for path in ("%04d.png", "./%04d.png", "../%04d.png", "x/../%04d.png", "/%04d.png"):
        with pytest.raises(VideoError, match="a folder of their own"):
            StreamingWriter(path, 8)
    for path in ("a/%d_%d.png", "run%02d/%04d.png", "run%02d/a.png"):
        with pytest.raises(VideoError, match="one count"):
            StreamingWriter(path, 8)
    assert os.listdir() == []


def test_a_percent_sign_is_no_count(tmp_path: Path) -> None:
    write_video(tmp_path / "100%.png", noise())
    write_video(tmp_path / "%04d.gif", noise())  # only png frames make a folder
    assert sorted(os.listdir(tmp_path)) == ["%04d.gif", "100%.png"]
    assert read_video(tmp_path / "%04d.gif").num_frames == 3


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_folder_leaves_nothing(tmp_path: Path, interruption: type[BaseException]) -> None:
    def interrupted() -> None:
        with StreamingWriter(tmp_path / "a" / "b" / "%d.png", 8) as writer:
            writer.add(noise().frames)
            assert not (tmp_path / "a" / "b").exists()
            raise interruption

    with pytest.raises(interruption):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_earlier_frames_come_back_when_the_new_cannot_take_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = tmp_path / "frames" / "%d.png"
    write_video(pattern, noise(3))
    rename = os.rename

    def fails(source: Path, target: Path) -> None:
        if str(source).endswith(".part"):
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(write_module.os, "rename", fails)
    with pytest.raises(VideoError, match="disk is full"):
        write_video(pattern, noise(2, seed=1), replace=True)
    np.testing.assert_array_equal(read_video(pattern).frames, noise(3).frames)
    assert os.listdir(tmp_path) == ["frames"]
