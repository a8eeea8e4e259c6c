"""Reading video and image files.

Everything FFmpeg decodes is read through PyAV; .gif and .webp through Pillow, whose frames each last their own time.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import av
import av.error
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from cogworks.errors import VideoError
from cogworks.video.video import Video

_log = logging.getLogger(__name__)

_PICTURE_FORMATS = (".gif", ".webp")


def read_video(path: str | Path, max_frames: int | None = None) -> Video:
    """Decode a file's first video stream, turned the way a player shows it.

    Args:
        max_frames: stop after so many; None reads all.

    Returns:
        The frames at the file's average rate. A gif or webp is sampled at the rate of its shortest frames.

    Raises:
        VideoError: no such file, no video in it, damaged, or `max_frames` below 1.
    """
    path = _existing(path)
    if max_frames is not None and max_frames < 1:
        raise VideoError(f"max_frames must be 1 or more, got {max_frames}")
    try:
        video = _read_pictures(path) if path.suffix.lower() in _PICTURE_FORMATS else _read_stream(path, max_frames)
    except (OSError, ValueError, SyntaxError, av.error.FFmpegError) as error:
        if isinstance(error, VideoError):
            raise
        raise VideoError(f"cannot read {path} as a video: {_reason(error)}") from error
    return Video(video.frames[:max_frames], video.fps)


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Decode an image file to (H, W, 3) uint8 RGB, turned upright; transparent parts become white.

    Raises:
        VideoError: no such file, not an image, or damaged.
    """
    path = _existing(path)
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(f"cannot read {path} as an image: {_reason(error)}") from error
    paper = Image.new("RGBA", upright.size, "white")
    return np.array(Image.alpha_composite(paper, upright).convert("RGB"))


def read_metadata(path: str | Path) -> dict[str, object]:
    """The metadata that `write_video` put into the file; empty if there is none.

    Raises:
        VideoError: no such file, or it cannot be opened.
    """
    path = _existing(path)
    try:
        if path.suffix.lower() in (*_PICTURE_FORMATS, ".png"):
            with Image.open(path) as image:
                image.load()  # a png's text may follow its pixels
                info = image.info
            found = info.get("comment") or info.get("Comment") or info.get("xmp") or ""
        else:
            with av.open(str(path)) as container:
                found = container.metadata.get("comment", "")
    except (OSError, ValueError, SyntaxError, av.error.FFmpegError) as error:
        raise VideoError(f"cannot read {path}: {_reason(error)}") from error
    text = found.decode("utf-8", "replace") if isinstance(found, bytes) else found
    try:
        metadata = json.loads(text) if text else {}
    except json.JSONDecodeError:
        return {}  # a comment that somebody else wrote
    return metadata if isinstance(metadata, dict) else {}


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise VideoError(f"no such file: {path}")
    return path


def _read_stream(path: Path, max_frames: int | None) -> Video:
    frames = []
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise VideoError(f"{path} holds no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate, listed = stream.average_rate or stream.guessed_rate, stream.frames
        for picture in container.decode(stream):
            rgb = picture.reformat(format="rgb24", interpolation="BICUBIC").to_ndarray()
            frames.append(np.rot90(rgb, picture.rotation // 90) if picture.rotation % 360 else rgb)
            if len(frames) == max_frames:
                break
    if not frames or not rate:
        raise VideoError(f"{path} holds no frame or no frame rate")
    if len(frames) < min(listed, max_frames or listed):
        # Cut short, or trimmed without encoding anew: a player would show the same frames.
        _log.warning("%s lists %d frames, of which %d could be read", path, listed, len(frames))
    return Video(np.stack(frames), float(rate))


def _read_pictures(path: Path) -> Video:
    with Image.open(path) as image:
        pictures, milliseconds = [], []
        for picture in ImageSequence.Iterator(image):
            pictures.append(np.asarray(picture.convert("RGB")))
            milliseconds.append(float(picture.info.get("duration") or 100))  # what browsers take where none is given
    # Writers round a frame's time to ticks, and store a picture that does not change as one long frame.
    lasts = np.asarray(milliseconds)
    one_frame = lasts[lasts < 1.5 * lasts.min()].mean()
    frames = np.repeat(np.stack(pictures), np.round(lasts / one_frame).astype(int), axis=0)
    return Video(frames, len(frames) * 1000 / float(lasts.sum()))


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is in no format this can read, or damaged"
    return getattr(error, "strerror", None) or str(error)  # FFmpeg's and the system's, without number and path
