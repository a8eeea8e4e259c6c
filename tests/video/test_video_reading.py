"""Reading what people have: every pixel format, rotation, timing and kind of damage, each read or explained."""

from __future__ import annotations

import logging
import os
import struct
import time
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from cogworks.errors import VideoError
from cogworks.video import Video, pictures, read_image, read_metadata, read_video, stream, write_video

GREY, RED = (128, 128, 128), (225, 40, 40)


def clip(num_frames: int = 6, height: int = 32, width: int = 48) -> np.ndarray:
    """Flat frames, each lighter than the one before: 20, 50, 80, ..."""
    return np.zeros((num_frames, height, width, 3), np.uint8) + _levels(num_frames)[:, None, None, None]


def _levels(num_frames: int) -> np.ndarray:
    return np.arange(20, 20 + 30 * num_frames, 30, dtype=np.uint8)


def encode(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: Sequence[float] | None = None,
    source: str = "rgb24",
    pixel: Fraction | None = None,
    **options: str,
) -> Path:
    """Encode with PyAV alone; `times` are seconds, at 8 frames a second if not given."""
    ticks = 1000
    with av.open(str(path), "w") as container:
        output = container.add_stream(codec, rate=8, options=options)
        output.width, output.height, output.pix_fmt = frames.shape[2], frames.shape[1], pix_fmt
        output.codec_context.time_base = Fraction(1, ticks)
        if pix_fmt == "gray":
            output.codec_context.color_range = 2  # FFmpeg's gray goes from 0 to 255
        if pixel is not None:
            output.codec_context.sample_aspect_ratio = pixel
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=source)
            picture.pts = round((index / 8 if times is None else times[index]) * ticks)
            picture.time_base = Fraction(1, ticks)
            container.mux(output.encode(picture))
        container.mux(output.encode(None))
    return path


def one_sentence(error: pytest.ExceptionInfo[VideoError], path: Path) -> str:
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    return text


# Pixel formats


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mp4", "libx264", "yuv444p"),
        ("a.mp4", "libx264", "yuv420p10le"),
        ("a.mp4", "libx264", "gray"),
        ("a.mkv", "ffv1", "yuv422p"),
        ("a.mkv", "ffv1", "gray16le"),
        ("a.mkv", "ffv1", "bgr0"),
        ("a.mov", "qtrle", "rgb24"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv444p"),
    ],
)
def test_pixel_formats(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    frames = clip()
    again = read_video(encode(tmp_path / name, frames, codec, pix_fmt))
    assert again.frames.shape == frames.shape
    assert np.abs(again.frames.astype(int) - frames).max() <= 6
    assert again.fps == pytest.approx(8)


@pytest.mark.parametrize(("codec", "pix_fmt"), [("qtrle", "argb"), ("png", "rgba"), ("ffv1", "bgra")])
def test_a_transparent_video_lies_on_white(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    frames = np.zeros((2, 32, 32, 4), np.uint8)
    frames[:, :, 8:] = (*RED, 255)
    frames[:, :, 16:] = (0, 0, 0, 127)
    read = read_video(
        encode(tmp_path / "a.mov" if codec != "ffv1" else tmp_path / "a.mkv", frames, codec, pix_fmt, source="rgba")
    ).frames
    assert (read[:, :, :8] == 255).all()
    assert (read[:, :, 8:16] == RED).all()
    assert (read[:, :, 16:] == 128).all()


def _png16(mode: str) -> Image.Image:
    return Image.fromarray(np.full((4, 6), 32896, np.uint16))


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("gray.png", Image.new("L", (6, 4), 128), GREY),
        ("gray16.png", _png16("I;16"), GREY),
        ("gray16.tiff", _png16("I;16"), GREY),
        ("bits.png", Image.new("1", (6, 4), 1), (255, 255, 255)),
        ("gray_alpha.png", Image.new("LA", (6, 4), (0, 127)), GREY),
        ("rgba.png", Image.new("RGBA", (6, 4), (0, 0, 0, 127)), GREY),
        ("rgba.webp", Image.new("RGBA", (6, 4), (0, 0, 0, 0)), (255, 255, 255)),
        ("palette.png", Image.new("RGB", (6, 4), RED).quantize(4), RED),
        ("palette.gif", Image.new("RGB", (6, 4), RED).quantize(4), RED),
        ("cmyk.jpg", Image.new("CMYK", (6, 4), (0, 0, 0, 127)), GREY),
        ("cmyk.tiff", Image.new("CMYK", (6, 4), (0, 0, 0, 127)), GREY),
        ("gray.jpg", Image.new("L", (6, 4), 128), GREY),
        ("colors.bmp", Image.new("RGB", (6, 4), RED), RED),
        ("colors.ppm", Image.new("RGB", (6, 4), RED), RED),
    ],
)
def test_image_modes(tmp_path: Path, name: str, image: Image.Image, expected: tuple[int, ...]) -> None:
    image.save(tmp_path / name)
    read = read_image(tmp_path / name)
    assert (read.shape, read.dtype) == ((4, 6, 3), np.uint8)
    assert np.abs(read.astype(int) - expected).max() <= 2


def test_a_transparent_color_of_a_palette_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, *RED])
    image.save(tmp_path / "a.png", transparency=1)
    assert (read_image(tmp_path / "a.png") == 255).all()


def test_pictures_without_a_white_are_refused(tmp_path: Path) -> None:
    for name, mode in (("floats.tiff", "F"), ("long.tiff", "I")):
        Image.new(mode, (4, 4), 10**6).save(tmp_path / name)
        with pytest.raises(VideoError, match="no known white") as error:
            read_image(tmp_path / name)
        one_sentence(error, tmp_path / name)


@pytest.mark.parametrize("name", ["turned.jpg", "turned.png", "turned.webp", "turned.tiff"])
def test_images_are_turned_by_exif(tmp_path: Path, name: str) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to show
    Image.fromarray(pixels).save(tmp_path / name, exif=exif)
    read = read_image(tmp_path / name)
    assert read.shape == (32, 16, 3)
    assert (read[:12] > 240).all()
    assert (read[20:] < 15).all()


def test_pixels_that_are_not_square_become_so(tmp_path: Path) -> None:
    wide = read_video(encode(tmp_path / "a.mp4", clip(), pixel=Fraction(4, 3)))
    assert (wide.height, wide.width) == (32, 64)
    absurd = read_video(encode(tmp_path / "b.mp4", clip(), pixel=Fraction(255, 1)))
    assert (absurd.height, absurd.width) == (32, 48)


# Timing


def test_a_variable_rate_is_sampled_at_even_steps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Six frames, the first three 0.1 s apart, the others 0.4 s: at the average of 0.28 s, each the nearest in time."""
    times = [0, 0.1, 0.2, 0.6, 1.0, 1.4]
    video = read_video(encode(tmp_path / "a.mp4", clip(), times=times, bf="0"))
    assert video.fps == pytest.approx(5 / 1.4)
    shown = np.abs(video.frames[:, 0, 0, :1].astype(int) - _levels(6)).argmin(-1)
    expected = [int(np.abs(np.asarray(times) - step * 0.28).argmin()) for step in range(6)]
    assert shown.tolist() == expected == [0, 2, 3, 4, 4, 5]
    assert "variable frame rate" in caplog.text
    assert str(tmp_path / "a.mp4") in caplog.text


def test_the_first_frames_of_a_variable_rate_keep_their_own_timing(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", clip(), times=[0, 0.1, 0.2, 0.6, 1.0, 1.4], bf="0")
    video = read_video(path, max_frames=3)
    assert video.fps == pytest.approx(10)
    assert np.abs(video.frames[:, 0, 0, 0].astype(int) - _levels(3)).max() <= 3


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.avi"])
@pytest.mark.parametrize("fps", [8, 23.976, 29.97, 60])
def test_a_constant_rate_is_left_alone(tmp_path: Path, name: str, fps: float, caplog: pytest.LogCaptureFixture) -> None:
    rate = Fraction(fps).limit_denominator(10_000)
    with av.open(str(tmp_path / name), "w") as container:
        codec = {"a.mp4": "libx264", "a.webm": "libvpx-vp9", "a.avi": "mpeg4"}[name]
        output = container.add_stream(codec, rate=rate)
        output.width, output.height, output.pix_fmt = 32, 32, "yuv420p"
        for frame in clip(7, 32, 32):
            container.mux(output.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(output.encode(None))
    video = read_video(tmp_path / name)
    assert video.num_frames == 7
    assert video.fps == pytest.approx(fps, rel=1e-3)
    assert not caplog.records


def test_even_steps_take_the_nearest_frame() -> None:
    assert stream.even_steps([0.0, 0.125, 0.25], 8) == (8, None)
    assert stream.even_steps([0.0, None, 9.0], 8) == (8, None)
    assert stream.even_steps([0.0, 0.0, 0.0], 8) == (8, None)
    assert stream.even_steps([3.0], 8) == (8, None)
    fps, nearest = stream.even_steps([5.0, 5.1, 5.2, 7.0], 8)
    assert fps == pytest.approx(1.5)
    assert nearest is not None
    assert nearest.tolist() == [0, 2, 3, 3]  # steps at 5, 5.67, 6.33 and 7 s


# What is not a video or an image


def test_the_wrong_kind_names_the_right_option(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", Video(clip(), 8))
    write_video(tmp_path / "a.gif", Video(clip(), 8))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    for name in ("a.mp4", "a.gif"):
        with pytest.raises(VideoError, match=r"not an image; .*--video") as error:
            read_image(tmp_path / name)
        one_sentence(error, tmp_path / name)
    for name in ("a.png", "a.jpg"):
        with pytest.raises(VideoError, match=r"not a video; .*--image") as error:
            read_video(tmp_path / name)
        one_sentence(error, tmp_path / name)


def test_an_ending_that_lies_is_not_believed(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", Video(clip(), 8), {"seed": 1})
    write_video(tmp_path / "b.gif", Video(clip(), 8), {"seed": 2})
    (tmp_path / "a.mp4").rename(tmp_path / "a.gif")
    (tmp_path / "b.gif").rename(tmp_path / "b.mp4")
    assert read_video(tmp_path / "a.gif").num_frames == read_video(tmp_path / "b.mp4").num_frames == 6
    assert read_metadata(tmp_path / "a.gif") == {"seed": 1}
    assert read_metadata(tmp_path / "b.mp4") == {"seed": 2}
    Image.new("RGB", (8, 8), RED).save(tmp_path / "c.png")
    (tmp_path / "c.png").rename(tmp_path / "c.jpg.txt")
    assert (read_image(tmp_path / "c.jpg.txt") == RED).all()


@pytest.mark.parametrize(
    "content",
    [
        b"just some text\n" * 50,
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile other.mp4\n",
        b"1\n00:00:00,000 --> 00:00:01,000\nsubtitle\n",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a\xff\xff\xff\xff",
        os.urandom(5000),
    ],
    ids=["text", "playlist", "concat", "subtitles", "png", "gif", "noise"],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    write_video(tmp_path / "other.mp4", Video(clip(), 8))  # what the concat script would show
    for name in ("a.mp4", "a.txt", "a.png"):
        path = tmp_path / name
        path.write_bytes(content)
        for read in (read_video, read_image):
            with pytest.raises(VideoError) as error:
                read(path)
            assert "convert" in one_sentence(error, path)


def test_sound_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as container:
        output = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(output.encode(frame))
        container.mux(output.encode(None))
    with pytest.raises(VideoError, match="no video stream"):
        read_video(tmp_path / "a.m4a")
    with pytest.raises(VideoError, match="no format"):
        read_image(tmp_path / "a.m4a")


def test_the_cover_of_a_record_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "rgb24"
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(clip(1, 16, 16)[0], format="rgb24")))
        container.mux(cover.encode(None))
    with pytest.raises(VideoError, match="no video stream"):
        read_video(tmp_path / "a.mp4")


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.mp4").touch()
    cases = [
        (tmp_path / "pipe.mp4", "pipe or a device"),
        (Path("/dev/zero"), "pipe or a device"),
        (tmp_path / "folder", "folder"),
        (tmp_path / "empty.mp4", "0 bytes"),
        (tmp_path / "none.mp4", "no such file"),
        (Path("a\0b.mp4"), "no such file"),
    ]
    for path, reason in cases:
        for read in (read_video, read_image, read_metadata):
            with pytest.raises(VideoError, match=reason) as error:
                read(path)
            one_sentence(error, path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything may be read by the superuser")
def test_permissions_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, Video(clip(), 8))
    path.chmod(0)
    for read in (read_video, read_image, read_metadata):
        with pytest.raises(VideoError, match="permissions"):
            read(path)


def test_permissions_are_named_to_the_superuser_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.mp4"
    write_video(path, Video(clip(), 8))
    monkeypatch.setattr("builtins.open", refused)
    for read in (read_video, read_image, read_metadata):
        with pytest.raises(VideoError, match="permissions forbid it"):
            read(path)


def test_names_that_ffmpeg_reads_differently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a:b.mp4", "100%d.mp4", "-i.mp4", "ä 漢.mp4", "pipe:0.mp4"):
        write_video(name, Video(clip(), 8), {"name": name})
        assert read_video(name).num_frames == 6
        assert read_metadata(name) == {"name": name}


# Damage


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tiff", "a.bmp"])
def test_a_truncated_image_is_explained(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    for length in (len(data) // 2, 40):
        (tmp_path / name).write_bytes(data[:length])
        with pytest.raises(VideoError, match="damaged") as error:
            read_image(tmp_path / name)
        one_sentence(error, tmp_path / name)


def test_a_damaged_middle_keeps_what_is_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    path = encode(tmp_path / "a.mov", noise, "png", "rgb24")  # every frame is a png
    data = bytearray(path.read_bytes())
    starts = [index for index in range(len(data)) if data.startswith(b"\x89PNG", index)]
    data[starts[3] : starts[3] + 200] = bytes(200)
    path.write_bytes(data)
    video = read_video(path)
    np.testing.assert_array_equal(video.frames, noise[:3])
    assert "damaged after frame 3" in caplog.text


# Size


def _huge_png(side: int) -> bytes:
    """A valid png of some hundred kilobytes: `side` x `side` black pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(3000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [11_600, 60_000])
def test_a_decompression_bomb_costs_neither_time_nor_memory(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(_huge_png(side))
    started = time.monotonic()
    for read in (read_image, read_video, read_metadata):
        with pytest.raises(VideoError, match=r"134 million.*smaller") as error:
            read(tmp_path / "a.png")
        one_sentence(error, tmp_path / "a.png")
    assert time.monotonic() - started < 1


def test_videos_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4", Video(clip(), 8))
    write_video(tmp_path / "a.gif", Video(clip(), 8))
    write_video(tmp_path / "a.webm", Video(clip(), 8))
    write_video(tmp_path / "a" / "%d.png", Video(clip(), 8))
    one_frame = 32 * 48 * 3
    monkeypatch.setattr(pictures, "MAX_FRAME_BYTES", 4 * one_frame)
    for name in ("a.mp4", "a.gif", "a.webm", "a"):
        with pytest.raises(VideoError, match="--frames") as error:
            read_video(tmp_path / name)
        one_sentence(error, tmp_path / name)
    for name in ("a.mp4", "a.webm", "a"):
        assert read_video(tmp_path / name, max_frames=4).num_frames == 4
    monkeypatch.setattr(stream, "MAX_VIDEO_PIXELS", 32 * 48 - 1)
    for name in ("a.mp4", "a.webm"):
        with pytest.raises(VideoError):
            read_video(tmp_path / name)


def test_one_long_frame_of_a_gif_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (Image.fromarray(frame) for frame in clip(2))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second], duration=[20, 600_000])
    assert read_video(tmp_path / "a.gif", max_frames=5).num_frames == 5
    monkeypatch.setattr(pictures, "MAX_FRAME_BYTES", 100 * 32 * 48 * 3)
    with pytest.raises(VideoError, match="--frames"):
        read_video(tmp_path / "a.gif")


def test_warnings_of_decoders_are_not_shown(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "a.png").write_bytes(_huge_png(10_000))  # Pillow warns above 89 million pixels
    with pytest.raises(VideoError, match="damaged"):
        read_image(tmp_path / "a.png")
    assert not recwarn.list
    assert logging.getLogger("PIL").level == logging.NOTSET
