"""Video files: what is written is read back, whole or not at all, and bad files are explained in one sentence."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogworks.errors import VideoError
from cogworks.video import StreamingWriter, Video, check_output, read_image, read_metadata, read_video, write_video
from cogworks.video import write as write_module


def moving_square(num_frames: int = 9, height: int = 64, width: int = 96, fps: float = 8) -> Video:
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    frames[...] = (12, 20, 70)
    for index in range(num_frames):
        frames[index, height // 4 : height // 2, 2 * index : 2 * index + width // 4] = (225, 40, 40)
    return Video(frames, fps)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


@pytest.mark.parametrize("fps", [8, 16, 24, 29.97])
@pytest.mark.parametrize("num_frames", [1, 2, 49])
def test_mp4_keeps_every_frame_and_the_rate(tmp_path: Path, fps: float, num_frames: int) -> None:
    video = moving_square(num_frames, fps=fps)
    write_video(tmp_path / "clip.mp4", video)
    again = read_video(tmp_path / "clip.mp4")
    assert again.frames.shape == video.frames.shape
    assert again.fps == pytest.approx(fps, rel=1e-9)
    assert again.duration == pytest.approx(video.duration)
    assert psnr(again.frames, video.frames) > 32  # chroma at half size costs the square its sharp red edge
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_mp4_keeps_colours(tmp_path: Path) -> None:
    colours = [(225, 40, 40), (40, 190, 70), (55, 95, 245), (255, 255, 255), (0, 0, 0), (225, 208, 170)]
    frames = np.zeros((len(colours), 32, 32, 3), np.uint8) + np.array(colours, np.uint8)[:, None, None]
    write_video(tmp_path / "clip.mp4", Video(frames, 8))
    # Two or three levels: 8-bit limited range. A BT.601 and BT.709 mix-up would cost red and green 10 to 30.
    assert np.abs(read_video(tmp_path / "clip.mp4").frames.astype(int) - frames).max() <= 4


def test_mp4_is_playable_h264_with_its_index_first(tmp_path: Path) -> None:
    import av

    path = tmp_path / "clip.mp4"
    write_video(path, moving_square())
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.colorspace, context.color_range) == ("h264", "yuv420p", 1, 1)


def test_webm_is_vp9_of_any_size(tmp_path: Path) -> None:
    import av

    path = tmp_path / "clip.webm"
    for height, width in ((64, 96), (63, 65), (1, 1)):
        video = moving_square(9, height, width, fps=29.97)
        write_video(path, video)
        again = read_video(path)
        assert again.frames.shape == video.frames.shape
        assert again.fps == pytest.approx(29.97)
        assert psnr(again.frames, video.frames) > 28
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.codec.canonical_name, context.pix_fmt, context.colorspace) == ("vp9", "yuv420p", 1)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (63, 64), (16, 17)])
def test_an_odd_size_gets_a_copy_of_its_last_row_or_column(tmp_path: Path, height: int, width: int) -> None:
    frames = np.full((2, height, width, 3), 200, np.uint8)
    write_video(tmp_path / "clip.mp4", Video(frames, 8))
    again = read_video(tmp_path / "clip.mp4").frames
    assert again.shape == (2, height + height % 2, width + width % 2, 3)
    assert np.abs(again.astype(int) - 200).max() <= 3


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
@pytest.mark.parametrize("fps", [8, 12, 25])
def test_gif_and_webp_keep_frames_and_length(tmp_path: Path, suffix: str, fps: float) -> None:
    video = moving_square(17, fps=fps)
    write_video(tmp_path / f"clip{suffix}", video)
    again = read_video(tmp_path / f"clip{suffix}")
    assert again.frames.shape == video.frames.shape
    assert again.duration == pytest.approx(video.duration, abs=0.01)  # a gif counts in 1/100 s
    assert psnr(again.frames, video.frames) > 30


@pytest.mark.parametrize("fps", [0.01, 1000])
@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.webp", "a/%d.png"])
def test_the_slowest_and_the_fastest_rate(tmp_path: Path, name: str, fps: float) -> None:
    write_video(tmp_path / name, moving_square(3, fps=fps))
    again = read_video(tmp_path / name)
    assert (again.num_frames, again.fps) == (3, pytest.approx(fps))


def test_a_fast_gif_is_slowed_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_video(tmp_path / "a.gif", moving_square(6, fps=60))
    assert read_video(tmp_path / "a.gif").fps == pytest.approx(50)
    assert "at most 50 of 60" in caplog.text


def test_a_picture_that_stays_is_repeated_when_read(tmp_path: Path) -> None:
    frames = moving_square(6).frames[[0, 1, 1, 1, 2, 3, 4, 5]]
    write_video(tmp_path / "clip.gif", Video(frames, 8))
    again = read_video(tmp_path / "clip.gif")
    np.testing.assert_array_equal(again.frames, frames)
    assert again.fps == pytest.approx(8)


def test_png_is_a_contact_sheet(tmp_path: Path) -> None:
    moving_square(9, 64, 96).save(tmp_path / "clip.png")
    assert read_image(tmp_path / "clip.png").shape == (64 + 4, 8 * 98 + 2, 3)


ANY_UNICODE = "".join(map(chr, [*range(1, 0xD800, 7), *range(0xE000, 0x110000, 997)]))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.gif", "clip.webp", "clip.png", "frames/%d.png"])
@pytest.mark.parametrize(
    "metadata",
    [
        {"prompt": 'a "red" circle, Ölfarbe 漢字\nsecond line; key=value', "seed": 7, "steps": [1, 2.5, None]},
        {"prompt": ANY_UNICODE * 4, "nul": "a\0b", "half": "\ud800", "": {"deep": [[[{}]]]}},
    ],
    ids=["short", "100 kB"],
)
def test_metadata_comes_back(tmp_path: Path, name: str, metadata: dict[str, object]) -> None:
    path = tmp_path / name
    write_video(path, moving_square(), metadata)
    assert read_metadata(path) == metadata
    write_video(path, moving_square(), replace=True)
    assert read_metadata(path) == {}


def test_the_recipe_of_a_video_is_saved_with_it(tmp_path: Path) -> None:
    path = tmp_path / "clip.gif"
    video = Video(moving_square().frames, 8, recipe={"prompt": "a red square"})
    assert "recipe" not in repr(video)
    video.save(path)
    assert read_metadata(path) == {"prompt": "a red square"}
    video.save(path, {"other": 1})
    assert read_metadata(path) == {"other": 1}
    video.save(path, {})
    assert read_metadata(path) == {}


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 100_000, "[1, 2]", "{", '"text"'])
def test_a_strange_comment_is_no_metadata(tmp_path: Path, text: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.gif", comment=text.encode())
    assert read_metadata(tmp_path / "a.gif") == {}


def test_a_comment_that_is_not_ours_is_no_metadata(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.gif", comment=b"made elsewhere")
    assert read_metadata(tmp_path / "a.gif") == {}


def test_chunks_give_the_same_file_as_the_whole(tmp_path: Path) -> None:
    video = moving_square(9)
    write_video(tmp_path / "whole.mp4", video)
    with StreamingWriter(tmp_path / "new" / "chunks.mp4", video.fps) as writer:
        for start in (0, 1, 5):
            writer.add(video.frames[start : {0: 1, 1: 5, 5: 9}[start]])
    whole, chunks = read_video(tmp_path / "whole.mp4"), read_video(tmp_path / "new" / "chunks.mp4")
    np.testing.assert_array_equal(whole.frames, chunks.frames)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif"])
@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_nothing(tmp_path: Path, suffix: str, interruption: type[BaseException]) -> None:
    path = tmp_path / f"clip{suffix}"

    def interrupted() -> None:
        with StreamingWriter(path, 8) as writer:
            writer.add(moving_square().frames)
            raise interruption

    with pytest.raises(interruption):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"older")

    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(write_module.os, "replace", fails)
    with pytest.raises(VideoError, match="disk full"):
        write_video(path, moving_square())
    assert path.read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["clip.mp4"]


def test_writing_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"must end in \.mp4"):
        StreamingWriter(tmp_path / "clip.avi", 8)
    for fps in (0, -8, 1e-9, 1e12, float("nan"), float("inf")):
        with pytest.raises(VideoError, match=r"0\.01 to 1000 frames a second"):
            StreamingWriter(tmp_path / "clip.mp4", fps)
    with pytest.raises(VideoError, match="no frame"), StreamingWriter(tmp_path / "clip.mp4", 8):
        pass
    with StreamingWriter(tmp_path / "two_sizes.mp4", 8) as writer:
        writer.add(moving_square(2, 64, 96).frames)
        with pytest.raises(VideoError, match="one size"):
            writer.add(moving_square(2, 64, 64).frames)
    with pytest.raises(VideoError, match="uint8"):
        Video(np.zeros((2, 4, 4, 3)), 8)  # type: ignore[arg-type]
    with pytest.raises(VideoError, match="shape"):
        Video(np.zeros((2, 4, 4), np.uint8), 8)
    (tmp_path / "file").write_text("")
    with pytest.raises(VideoError, match="cannot write"):
        write_video(tmp_path / "file" / "clip.mp4", moving_square())
    assert sorted(os.listdir(tmp_path)) == ["file", "two_sizes.mp4"]


FULL_DISK = """
import os, resource, signal, sys
import numpy as np
from cogworks.errors import VideoError
from cogworks.video import Video, write_video

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
video = Video(np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), 8)
for name in sys.argv[1:]:
    write_video("whole/" + name, video, {"prompt": "x"})
    size = max(path.stat().st_size for path in __import__("pathlib").Path("whole").rglob("*.*") if path.is_file())
    for most in (0, 60, size - 300, size - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
        try:
            write_video("new/" + name, video, {"prompt": "x"})
            reason = None
        except VideoError as error:
            reason = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert reason and "larger than may be written" in reason and "new/" + name in reason, (name, most, reason)
        assert not os.path.exists("new"), (name, most, os.listdir("new"))
    __import__("shutil").rmtree("whole")
"""


@pytest.mark.skipif(os.name == "nt", reason="limits of file sizes are POSIX")
def test_a_file_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    """Wherever the disk ends: before the first byte, in the middle, one byte before the last."""
    names = ["a.mp4", "a.webm", "a.gif", "a.webp", "a.png", "f/%d.png"]
    ran = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *names], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EROFS, "its disk may only be read; choose another"),
        (errno.EACCES, "its folder may not be written; choose another"),
        (errno.EIO, "Input/output error; try another place"),
    ],
)
def test_faults_of_the_disk_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, sentence: str
) -> None:
    def fails(_: int) -> None:
        raise OSError(number, os.strerror(number), "hidden.part")

    monkeypatch.setattr(write_module.os, "fsync", fails)
    with pytest.raises(VideoError) as error:
        write_video(tmp_path / "clip.webm", moving_square())
    assert str(error.value).startswith(f"cannot write {tmp_path / 'clip.webm'}: {sentence}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["clip.mp4", "frames/%d.png"])
def test_a_killed_process_leaves_no_half_file(tmp_path: Path, name: str) -> None:
    code = (
        "import numpy as np, sys, time\n"
        "from cogworks.video import StreamingWriter\n"
        "frames = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)\n"
        f"with StreamingWriter({name!r}, 8) as writer:\n"
        "    for _ in range(1000):\n"
        "        writer.add(frames)\n"
        "        print(flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(12):  # frames that x264 looks ahead at are not yet in the file
        process.stdout.readline()
    process.kill()
    process.communicate()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".")
    assert ".part" in left.name
    write_video(tmp_path / name, moving_square())
    assert read_video(tmp_path / name).num_frames == 9


def test_an_output_is_checked_before_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    write_video(tmp_path / "frames" / "%d.png", moving_square())
    check_output(tmp_path / "new" / "deep" / "clip.mp4")
    check_output(tmp_path / "more" / "%d.png")
    check_output(tmp_path / "frames" / "%d.png", replace=True)
    for name, reason in (
        ("clip.avi", "must end in"),
        ("file/clip.mp4", "not a folder"),
        ("file/deep/clip.mp4", "not a folder"),
        ("folder.mp4", "a folder has that name"),
        ("frames/%d.png", "holds frames"),
        ("file/%d.png", "cannot write"),
    ):
        with pytest.raises(VideoError, match=reason):
            check_output(tmp_path / name)
    monkeypatch.setattr(write_module.os, "access", lambda *_: False)
    with pytest.raises(VideoError, match="may not be written; choose another"):
        check_output(tmp_path / "new" / "clip.mp4")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.mp4", "frames"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything may be written by the superuser")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    for write in (check_output, lambda path: write_video(path, moving_square())):
        with pytest.raises(VideoError, match="may not be written"):
            write(tmp_path / "clip.mp4")
    tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []


def test_a_long_name_fits(tmp_path: Path) -> None:
    write_video(tmp_path / f"{'漢' * 80}.gif", moving_square(2))  # 244 of the 255 bytes a name may have
    with pytest.raises(VideoError, match="too long"):
        write_video(tmp_path / f"{'漢' * 90}.gif", moving_square(2))
    assert len(list(tmp_path.iterdir())) == 1


def test_max_frames_stops_early(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_video(tmp_path / "clip.mp4", moving_square(9))
    assert read_video(tmp_path / "clip.mp4", max_frames=4).num_frames == 4
    assert read_video(tmp_path / "clip.mp4", max_frames=40).num_frames == 9
    assert not caplog.records
    with pytest.raises(VideoError, match="max_frames"):
        read_video(tmp_path / "clip.mp4", max_frames=0)


@pytest.mark.parametrize("content", [b"", b"not a video", b"\x00\x00\x00\x18ftypmp42"])
@pytest.mark.parametrize("name", ["bad.mp4", "bad.gif", "bad.webp"])
def test_bad_files_are_explained(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=name) as error:
        read_video(tmp_path / name)
    assert "\n" not in str(error.value)
    with pytest.raises(VideoError, match=name):
        read_image(tmp_path / name)
    with pytest.raises(VideoError, match=name):
        read_metadata(tmp_path / name)


def test_missing_and_cut_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for read in (read_video, read_image, read_metadata):
        with pytest.raises(VideoError, match="no such file"):
            read(tmp_path / "none.mp4")
    write_video(tmp_path / "clip.mp4", moving_square(17))
    data = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[:-200])
    with caplog.at_level(logging.WARNING):
        assert read_video(tmp_path / "cut.mp4").num_frames < 17
    assert "lists 17 frames" in caplog.text


def test_images_are_upright_rgb(tmp_path: Path) -> None:
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "plain.png")
    np.testing.assert_array_equal(read_image(tmp_path / "plain.png"), pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn a quarter clockwise to show
    image.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(pixels, -1))
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png") == 255).all()


def test_importing_video_loads_no_torch_and_no_decoder() -> None:
    code = "import sys, cogworks.video; sys.exit(bool({'torch', 'av', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_video_filmed_sideways_is_turned(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, moving_square(3))
    upright = read_video(path).frames
    identity = b"".join(value.to_bytes(4, "big") for value in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    quarter = b"".join(
        value.to_bytes(4, "big", signed=True) for value in (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    )
    movie, track, rest = path.read_bytes().split(identity)  # the movie header's matrix, then the track header's
    path.write_bytes(movie + identity + track + quarter + rest)
    np.testing.assert_array_equal(read_video(path).frames, np.rot90(upright, -1, axes=(1, 2)))
