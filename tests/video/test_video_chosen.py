"""Reading some frames: they are those of `read_video`, and little else is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cogworks.errors import VideoError
from cogworks.video import Video, chosen, read_image, read_video
from cogworks.video.chosen import STILL_FPS, each_frame, measure_video, read_frames
from cogworks.video.source import HeldFile
from helpers.little_clips import frame_numbers, numbered, save_clip

# Each with key frames every few pictures, and with pictures that are coded from later ones where the codec can.
CODINGS = {
    "mp4": ("libx264", {"g": "7", "bf": "3"}),
    "open.mp4": ("libx264", {"g": "7", "bf": "3", "x264-params": "open-gop=1"}),
    "mkv": ("libx264", {"g": "5", "bf": "2"}),
    "avi": ("mpeg4", {"g": "6"}),
    "ts": ("mpeg2video", {"g": "6", "bf": "2"}),
    "webm": ("libvpx-vp9", {"g": "8", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "h264": ("libx264", {"g": "7", "bf": "2"}),
}


def noisy(num_frames: int = 31) -> np.ndarray:
    rng = np.random.default_rng(0)
    drift = np.cumsum(rng.integers(-9, 10, (num_frames, 32, 48, 3)), 0)
    return (numbered(num_frames).astype(int) + drift).clip(0, 255).astype(np.uint8)


def encode(path: Path, frames: np.ndarray, codec: str, options: dict[str, str], times: Sequence[float] = ()) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = round((times[index] if times else index / 8) * 1000)
            picture.time_base = Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(params=CODINGS)
def coded(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    codec, options = CODINGS[request.param]
    if codec == "mpeg4" or codec == "mpeg2video":  # these know no millisecond
        path = tmp_path / f"clip.{request.param}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for frame in noisy():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        return path
    return encode(tmp_path / f"clip.{request.param}", noisy(), codec, options)


@pytest.mark.parametrize("indices", [[0], [30], [13], [12, 13, 14, 22], [29, 3, 3, 17], list(range(31))], ids=str)
def test_frames_are_those_of_the_whole_video(coded: Path, indices: list[int]) -> None:
    whole = read_video(coded)
    assert whole.num_frames == 31
    told: list[tuple[int, float]] = []
    frames = read_frames(coded, lambda *told_now: told.append(told_now) or indices)
    assert told == [(31, pytest.approx(whole.fps))]
    np.testing.assert_array_equal(frames, whole.frames[indices])
    held = HeldFile("clip in an archive", coded.read_bytes())
    np.testing.assert_array_equal(read_frames(held, lambda *_: indices), whole.frames[indices])


def test_the_negative_control_of_the_comparison(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", noisy(), *CODINGS["mp4"])
    assert (read_frames(path, lambda *_: [12]) != read_video(path).frames[13]).mean() > 0.5


def test_the_whole_video_one_by_one(coded: Path) -> None:
    np.testing.assert_array_equal(np.stack(list(each_frame(coded))), read_video(coded).frames)


def test_measured(coded: Path) -> None:
    whole = read_video(coded)
    assert measure_video(coded) == (31, 32, 48, pytest.approx(whole.fps))
    assert measure_video(coded, exact=True) == measure_video(coded)
    assert measure_video(HeldFile("held", coded.read_bytes())) == measure_video(coded)


def test_a_variable_rate_is_sampled_as_the_whole_is(tmp_path: Path) -> None:
    times = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.5, 2.5, 3.0]
    path = encode(tmp_path / "clip.mp4", numbered(9), "libx264", {"g": "3"}, times)
    whole = read_video(path)
    assert frame_numbers(whole.frames) != list(range(9))
    told: list[float] = []
    frames = read_frames(path, lambda length, fps: told.append(fps) or range(length))
    assert told == [pytest.approx(whole.fps)]
    np.testing.assert_array_equal(frames, whole.frames)
    np.testing.assert_array_equal(read_frames(path, lambda *_: [5, 6]), whole.frames[5:7])


def test_few_other_frames_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 90 frames with a key frame every 10, those before the key frame and after the last wanted are left alone."""
    path = encode(tmp_path / "long.mp4", np.concatenate([noisy(30)] * 3), "libx264", {"g": "10", "bf": "0"})
    whole = read_video(path).frames
    decoded: list[int] = []
    opened = chosen.opened_container

    class Counting:
        def __init__(self, container: object) -> None:
            self.container = container

        def __getattr__(self, name: str) -> object:
            return getattr(self.container, name)

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *_: object) -> None:
            self.container.close()

        def decode(self, stream: object) -> Iterator[object]:
            for picture in self.container.decode(stream):
                decoded.append(picture.pts)
                yield picture

    monkeypatch.setattr(chosen, "opened_container", lambda file: Counting(opened(file)))
    frames = read_frames(path, lambda *_: [63, 65])
    np.testing.assert_array_equal(frames, whole[[63, 65]])
    assert len(decoded) == 6


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_animations(tmp_path: Path, ending: str) -> None:
    path = save_clip(tmp_path / f"clip.{ending}", 9)
    whole = read_video(path)
    assert measure_video(path) == (9, 32, 48, pytest.approx(whole.fps))
    np.testing.assert_array_equal(read_frames(path, lambda *_: [7, 2]), whole.frames[[7, 2]])


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif", "tiff"])
def test_a_picture_is_a_video_of_one_frame(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"picture.{ending}"
    Image.fromarray(noisy()[7]).save(path)
    assert measure_video(path) == (1, 32, 48, STILL_FPS)
    for file in (path, HeldFile("held", path.read_bytes())):
        np.testing.assert_array_equal(read_frames(file, lambda *_: [0, 0])[1], read_image(path))


def test_turned_pictures_have_their_shown_size(tmp_path: Path) -> None:
    path = save_clip(tmp_path / "clip.mp4")
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4
    at = header + 40  # version 0: the matrix comes after 40 bytes
    turn = [0, 1, 0, -1 % 2**32, 0, 0, 0, 0, 0x40000000]
    values = [value * 0x10000 % 2**32 if index < 8 else value for index, value in enumerate(turn)]
    data[at : at + 36] = b"".join(value.to_bytes(4, "big") for value in values)
    path.write_bytes(data)
    whole = read_video(path)
    assert (whole.height, whole.width) == (48, 32)
    assert measure_video(path)[:3] == (9, 48, 32)
    np.testing.assert_array_equal(read_frames(path, lambda *_: [4, 8]), whole.frames[[4, 8]])


def test_a_video_cut_without_encoding_it_anew(tmp_path: Path) -> None:
    """Its first frames are there, because the others are coded from them, and are not shown."""
    whole, cut = save_clip(tmp_path / "whole.mp4", 30), tmp_path / "cut.mp4"
    keep = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with av.open(str(whole)) as source, av.open(str(cut), "w", options=keep) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                shift = int(10 / 8 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                container.mux(packet)
    assert frame_numbers(read_video(cut).frames) == list(range(10, 30))
    assert measure_video(cut) == measure_video(cut, exact=True) == (20, 32, 48, 8)
    assert frame_numbers(read_frames(cut, lambda length, _: [0, 7, length - 1])) == [10, 17, 29]
    assert len(list(each_frame(cut))) == 20


def test_frames_are_converted_one_by_one(coded: Path) -> None:
    whole = read_video(coded).frames
    frames = read_frames(coded, lambda *_: [20, 3, 3], lambda frame: frame[:8, :8])
    np.testing.assert_array_equal(frames, whole[[20, 3, 3], :8, :8])


def test_damage_is_named(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mkv", noisy(), *CODINGS["mkv"])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    some = len(list(each_frame(path)))
    assert 0 < some < 31
    with pytest.raises(VideoError, match=r"damaged: frame \d+ cannot be read"):
        read_frames(HeldFile("cut", _mp4_without_end(tmp_path)), lambda *_: [0, 30])


def _mp4_without_end(folder: Path) -> bytes:
    """An mp4 whose index lists more frames than there are."""
    path = folder / "whole.mp4"
    Video(noisy(), 8).save(path)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    return data[: len(data) // 2]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.mp4", tmp_path / "text.mp4"
    empty.touch()
    text.write_text("no video at all")
    for file in (empty, text, tmp_path / "missing.mp4", HeldFile("held", b""), HeldFile("held", b"text")):
        for read in (
            measure_video,
            lambda file: read_frames(file, lambda *_: [0]),
            lambda file: list(each_frame(file)),
        ):
            with pytest.raises(VideoError, match="held" if isinstance(file, HeldFile) else file.name):
                read(file)


def test_what_the_choice_raises_goes_through(tmp_path: Path) -> None:
    def refuse(length: int, fps: float) -> list[int]:
        raise KeyError(length)

    with pytest.raises(KeyError, match="9"):
        read_frames(save_clip(tmp_path / "clip.mp4"), refuse)


def test_held_files_are_read_whole(tmp_path: Path) -> None:
    path = save_clip(tmp_path / "clip.mp4")
    held = HeldFile("held", path.read_bytes())
    np.testing.assert_array_equal(read_video(held).frames, read_video(path).frames)
    assert "data" not in repr(held)
    with pytest.raises(VideoError, match="held is a video, not an image"):
        read_image(held)


def test_fewer_frames_than_packets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the decoder gives counts: the choice is asked again, for what there is."""
    path = save_clip(tmp_path / "clip.mp4", 9)
    timeline = chosen._timeline

    def with_two_more(*arguments: object) -> object:
        return timeline(*arguments)._replace(num_frames=11, stamps=None, shown=None)

    monkeypatch.setattr(chosen, "_timeline", with_two_more)
    asked: list[int] = []
    frames = read_frames(path, lambda length, _: asked.append(length) or [0, length - 1])
    assert asked == [11, 9]
    assert frame_numbers(frames) == [0, 8]
    with pytest.raises(VideoError, match="frame 10 cannot be read"):
        read_frames(path, lambda *_: [0, 10])


@cache
def whole() -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        files = {}
        for ending in ("mp4", "webm", "gif", "webp"):
            path = save_clip(Path(folder, f"clip.{ending}"))
            files[ending] = path.read_bytes()
    return files


@settings(max_examples=60, deadline=5000, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["mp4", "webm", "gif", "webp"]), st.data())
def test_a_mangled_clip_is_read_or_explained(ending: str, draws: st.DataObject) -> None:
    data = bytearray(whole()[ending])
    for _ in range(draws.draw(st.integers(1, 4))):
        place = draws.draw(st.integers(0, len(data) - 1))
        if draws.draw(st.booleans()):
            data[place] ^= draws.draw(st.integers(1, 255))
        else:
            del data[place + 1 : place + 1 + draws.draw(st.integers(1, 400))]
    held, sentences = HeldFile("mangled", bytes(data)), []
    for read in (
        lambda: measure_video(held),
        lambda: read_frames(held, lambda length, _: [length // 2, length - 1]),
        lambda: list(each_frame(held)),
    ):
        try:
            read()
        except VideoError as error:
            sentences.append(str(error))
    assert all("mangled" in sentence and "\n" not in sentence for sentence in sentences)
