"""Encoders: frames in, one file (or one folder of frames) of a format out.

A sink writes to the place it is given and leaves tidying and renaming to `cogworks.video.write`.

Metadata is a text in the format's comment field: the comment tag of an mp4 or a webm, the comment of a gif, XMP in a
webp, a text chunk "Comment" in a png (of a folder, in the first).
"""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from cogworks.video.folder import FramePattern
from cogworks.video.frames import sheet_of

if TYPE_CHECKING:
    from av.video.stream import VideoStream

_log = logging.getLogger(__name__)

FPS_KEY = "Frames per second"  # a text chunk in the first png of a folder
WEBP_QUALITY = 90
GIF_SHORTEST_MS = 20
# Constant quality where a loss is hard to see. VP9 encodes at its slow default a frame of 720x480 in seconds;
# cpu-used 3 is several times as fast for files a few per cent larger.
_CODECS = {
    ".mp4": ("libx264", {"crf": "18"}, {"movflags": "faststart"}),
    ".webm": ("libvpx-vp9", {"crf": "18", "b": "0", "deadline": "good", "cpu-used": "3", "row-mt": "1"}, {}),
}
_BT709 = 1  # ITU-T H.273: primaries 1, transfer 1, matrix 1
_LIMITED_RANGE = 1  # FFmpeg's AVCOL_RANGE_MPEG


class Sink(Protocol):
    def add(self, frames: NDArray[np.uint8]) -> None: ...

    def close(self, *, keep: bool) -> None: ...


def open_sink(path: Path, pattern: FramePattern | None, fps: float, size: tuple[int, ...], comment: str) -> Sink:
    """The encoder for the ending of `path`, or for a folder `path` of frames named by `pattern`; `size` is (H, W)."""
    if pattern is not None:
        return FolderSink(path, pattern, fps, comment)
    if path.suffix in _CODECS:
        return EncoderSink(path, fps, size, comment)
    return PictureSink(path, fps, comment)


class EncoderSink:
    """mp4 (H.264) and webm (VP9) in yuv420p and BT.709, encoded on the way, holding no frame."""

    def __init__(self, path: Path, fps: float, size: tuple[int, ...], comment: str) -> None:
        import av

        codec, options, container_options = _CODECS[path.suffix]
        rate = Fraction(fps).limit_denominator(10_000)
        # H.264 in yuv420p holds only even sizes: an odd one gets a copy of its last row or column.
        self._step = 2 if codec == "libx264" else 1
        height, width = (side + -side % self._step for side in size)
        self._container = av.open(f"file:{path}", "w", options=container_options)
        if comment:
            self._container.metadata["comment"] = comment
        self._stream = cast("VideoStream", self._container.add_stream(codec, rate=rate, options=options))
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        context = self._stream.codec_context
        context.time_base = 1 / rate
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = _LIMITED_RANGE
        self._count = 0

    def add(self, frames: NDArray[np.uint8]) -> None:
        import av

        height, width = frames.shape[1:3]
        margin = ((0, -height % self._step), (0, -width % self._step), (0, 0))
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(np.pad(frame, margin, mode="edge")), format="rgb24"
            )
            picture = picture.reformat(
                format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED_RANGE, interpolation="BICUBIC"
            )
            picture.pts = self._count
            picture.time_base = self._stream.codec_context.time_base
            self._count += 1
            self._container.mux(self._stream.encode(picture))

    def close(self, *, keep: bool) -> None:
        try:
            if keep:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()


class PictureSink:
    """gif, webp and contact sheet: collects frames for Pillow, which wants all of them."""

    def __init__(self, path: Path, fps: float, comment: str) -> None:
        self._path, self._fps, self._comment = path, fps, comment
        self._chunks: list[NDArray[np.uint8]] = []

    def add(self, frames: NDArray[np.uint8]) -> None:
        self._chunks.append(frames.copy())

    def close(self, *, keep: bool) -> None:
        if not keep:
            return
        frames = np.concatenate(self._chunks)
        if self._path.suffix == ".png":
            _save_png(self._path, sheet_of([frames]), {"Comment": self._comment})
            return
        with open(self._path, "xb") as file:
            save_animation(file, frames, self._fps, self._path.suffix, self._comment)


class FolderSink:
    """A folder of png frames, written on the way."""

    def __init__(self, folder: Path, pattern: FramePattern, fps: float, comment: str) -> None:
        folder.mkdir()
        self._folder, self._pattern = folder, pattern
        self._texts = {"Comment": comment, FPS_KEY: repr(float(fps))}
        self._count = 0

    def add(self, frames: NDArray[np.uint8]) -> None:
        for frame in frames:
            texts = {} if self._count else self._texts
            _save_png(self._folder / self._pattern.name(self._count), frame, texts)
            self._count += 1

    def close(self, *, keep: bool) -> None:
        pass  # every frame is in its file


def save_animation(file: IO[bytes], frames: NDArray[np.uint8], fps: float, suffix: str, comment: str = "") -> None:
    """Write frames (T, H, W, 3) as an animation that repeats for ever; `suffix` is .gif or .webp.

    A gif above 50 frames a second is slowed down to that, as browsers show its shorter frames for 1/10 s.
    """
    from PIL import Image

    first, *others = [Image.fromarray(frame) for frame in frames]
    # A gif counts time in 1/100 s, a webp in 1/1000 s: round the frames' ends, so that errors do not add up.
    tick = 10 if suffix == ".gif" else 1  # ms
    ends = np.round(np.arange(len(frames) + 1) * 1000 / (fps * tick)).astype(int) * tick
    lasts = np.diff(ends)
    if suffix == ".gif" and fps * GIF_SHORTEST_MS > 1000:
        _log.warning("a gif shows at most %g of %g frames a second", 1000 / GIF_SHORTEST_MS, fps)
        lasts[:] = GIF_SHORTEST_MS
    options: dict[str, object] = {"duration": lasts.tolist(), "loop": 0}
    if suffix == ".webp":
        options |= {"quality": WEBP_QUALITY, "method": 4, "xmp": comment.encode()}
    elif comment:
        options |= {"comment": comment.encode()}
    first.save(file, suffix[1:], save_all=True, append_images=others, **options)


def _save_png(path: Path, picture: NDArray[np.uint8], texts: dict[str, str]) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, text in texts.items():
        if text:
            info.add_itxt(key, text)
    Image.fromarray(picture).save(path, pnginfo=info)
