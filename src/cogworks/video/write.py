"""Writing video files, whole or not at all.

The path's ending picks the format: .mp4 (H.264 in yuv420p, BT.709, the index first, so that it plays everywhere and
starts before it is loaded), .gif, .webp (animated) or .png (a contact sheet). Frames go to a temporary file in the
same folder, which takes the final name when all went well and is removed when anything did not.

H.264 in yuv420p holds only even sizes: an odd one gets a copy of its last row or column, so it reads back one larger.

Metadata is one JSON object in the format's comment field: the comment tag of an mp4, the comment of a gif, XMP in a
webp, a text chunk in a png.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import av
import av.error
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cogworks.errors import VideoError
from cogworks.video.frames import contact_sheet
from cogworks.video.video import Video, check_frames

FORMATS = (".mp4", ".gif", ".webp", ".png")
H264_CRF = 18  # constant quality; at 18 a loss is hard to see
WEBP_QUALITY = 90
BT709 = 1  # ITU-T H.273: primaries 1, transfer 1, matrix 1
LIMITED_RANGE = 1  # FFmpeg's AVCOL_RANGE_MPEG


def write_video(path: str | Path, video: Video, metadata: Mapping[str, object] | None = None) -> None:
    """Write `video` to `path`, replacing what was there.

    Args:
        path: ends in .mp4, .gif, .webp or .png; missing folders are made.
        metadata: anything JSON can hold; read it back with `read_metadata`.

    Raises:
        VideoError: unknown ending, or the file cannot be written.
    """
    with StreamingWriter(path, video.fps, metadata) as writer:
        writer.add(video.frames)


class StreamingWriter:
    """Writes frames as they come: `with StreamingWriter(path, fps) as writer: writer.add(frames)`, again and again.

    An mp4 is encoded on the way; the other formats need all frames and encode at the end. The file appears when the
    block ends; if the block raises, nothing is left and an older file of that name is untouched.

    Raises:
        VideoError: unknown ending, no frame added, frames of different sizes, or the file cannot be written.
    """

    def __init__(self, path: str | Path, fps: float, metadata: Mapping[str, object] | None = None) -> None:
        self.path = Path(path)
        self._fps = fps
        self._comment = json.dumps(metadata, ensure_ascii=False) if metadata else ""
        self._sink: _Sink | None = None
        self._size: tuple[int, ...] | None = None
        suffix = self.path.suffix.lower()
        if suffix not in FORMATS:
            raise VideoError(f"cannot write {self.path.name!r}: the name must end in {', '.join(FORMATS)}")
        if not 0 < fps < float("inf"):
            raise VideoError(f"a video needs a positive frame rate, got {fps} frames a second")
        self._part = self.path.with_name(f".{self.path.stem}.{secrets.token_hex(4)}.part{suffix}")

    def __enter__(self) -> Self:
        return self

    def add(self, frames: NDArray[np.uint8]) -> None:
        """Append frames (T, H, W, 3) uint8, all of one size."""
        check_frames(frames)
        size = frames.shape[1:3]
        if self._size not in (None, size):
            raise VideoError(f"all frames of a file have one size: it began with {self._size}, now came {size}")
        try:
            if self._sink is None:
                self._part.parent.mkdir(parents=True, exist_ok=True)
                self._sink, self._size = _open_sink(self._part, self._fps, size, self._comment), size
            self._sink.add(frames)
        except (OSError, av.error.FFmpegError) as error:
            raise VideoError(f"cannot write {self.path}: {error}") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._sink is None:
                raise VideoError(f"cannot write {self.path}: no frame was added")
            if self._sink is not None:
                self._sink.close(keep=kind is None)
            if kind is None:
                os.replace(self._part, self.path)
        except (OSError, av.error.FFmpegError) as failure:
            raise VideoError(f"cannot write {self.path}: {failure}") from failure
        finally:
            with contextlib.suppress(OSError):  # already renamed, or its folder could not be made
                self._part.unlink()


class _Sink(Protocol):
    def add(self, frames: NDArray[np.uint8]) -> None: ...

    def close(self, *, keep: bool) -> None: ...


def _open_sink(path: Path, fps: float, size: tuple[int, ...], comment: str) -> _Sink:
    return _Mp4Sink(path, fps, size, comment) if path.suffix == ".mp4" else _PictureSink(path, fps, comment)


class _Mp4Sink:
    """Encodes on the way, holding no frame."""

    def __init__(self, path: Path, fps: float, size: tuple[int, ...], comment: str) -> None:
        rate = Fraction(fps).limit_denominator(10_000)
        height, width = (side + side % 2 for side in size)
        self._container = av.open(str(path), "w", options={"movflags": "faststart"})
        if comment:
            self._container.metadata["comment"] = comment
        self._stream = self._container.add_stream("libx264", rate=rate, options={"crf": str(H264_CRF)})
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        context = self._stream.codec_context
        context.time_base = 1 / rate
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED_RANGE
        self._count = 0

    def add(self, frames: NDArray[np.uint8]) -> None:
        height, width = frames.shape[1:3]
        even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        for frame in even:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture = picture.reformat(
                format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED_RANGE, interpolation="BICUBIC"
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


class _PictureSink:
    """Collects frames for Pillow, which wants all of them."""

    def __init__(self, path: Path, fps: float, comment: str) -> None:
        self._path, self._fps, self._comment = path, fps, comment
        self._chunks: list[NDArray[np.uint8]] = []

    def add(self, frames: NDArray[np.uint8]) -> None:
        self._chunks.append(frames.copy())

    def close(self, *, keep: bool) -> None:
        if not keep:
            return
        video = Video(np.concatenate(self._chunks), self._fps)
        if self._path.suffix == ".png":
            info = PngInfo()
            if self._comment:
                info.add_itxt("Comment", self._comment)
            Image.fromarray(contact_sheet([video])).save(self._path, pnginfo=info)
            return
        first, *others = [Image.fromarray(frame) for frame in video.frames]
        # A gif counts time in 1/100 s, a webp in 1/1000 s: round the frames' ends, so that errors do not add up.
        tick = 10 if self._path.suffix == ".gif" else 1  # ms
        ends = np.round(np.arange(video.num_frames + 1) * 1000 / (video.fps * tick)).astype(int) * tick
        options: dict[str, object] = {"duration": np.diff(ends).tolist(), "loop": 0}
        if self._path.suffix == ".webp":
            options |= {"quality": WEBP_QUALITY, "method": 4, "xmp": self._comment.encode()}
        elif self._comment:
            options |= {"comment": self._comment.encode()}
        first.save(self._path, save_all=True, append_images=others, **options)  # type: ignore[arg-type]
