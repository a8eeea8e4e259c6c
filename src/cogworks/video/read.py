"""Reading video and image files: which decoder gets which file, and what is said about the wrong one.

Pictures and animations go through Pillow (`pictures`), everything else through FFmpeg (`stream`).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cogworks.errors import VideoError
from cogworks.video.faults import DAMAGED, reading
from cogworks.video.folder import frame_files
from cogworks.video.pictures import picture_comment, read_animation, read_folder, read_picture
from cogworks.video.source import HeldFile, existing, picture_format
from cogworks.video.stream import holds_video, read_stream, stream_comment
from cogworks.video.video import Video


def read_video(path: str | Path | HeldFile, max_frames: int | None = None) -> Video:
    """Decode a file's first video stream, or a folder of png frames, turned the way a player shows it.

    Args:
        path: a file in any format, whatever its name ends in, on the disk or held in memory; or a folder of numbered
            png frames, or their pattern.
        max_frames: stop after so many; None reads all.

    Returns:
        The frames at the file's average rate: those of a variable rate are sampled at even steps. A gif, webp or png
        animation is sampled at the rate of its shortest frames. Transparent parts are white, pixels square.

    Raises:
        VideoError: no such file, no video in it, damaged before the second frame, of more than 8K (`MAX_VIDEO_PIXELS`)
            or 4 GiB decoded (`MAX_FRAME_BYTES`), or `max_frames` below 1.
    """
    if max_frames is not None and max_frames < 1:
        raise VideoError(f"max_frames must be 1 or more, got {max_frames}")
    if not isinstance(path, HeldFile) and (files := _frame_files(Path(path))) is not None:
        return Video(*read_folder(Path(path), files, max_frames))
    file = existing(path)
    kind = picture_format(file)
    return Video(*(read_stream(file, max_frames) if kind is None else read_animation(file, kind, max_frames)))


def read_image(path: str | Path | HeldFile) -> NDArray[np.uint8]:
    """Decode an image file to (H, W, 3) uint8 RGB, turned upright; transparent parts become white.

    Raises:
        VideoError: no such file, a video or an animation, damaged, or of more than 134 million pixels
            (`MAX_IMAGE_PIXELS`).
    """
    file = existing(path)
    kind = picture_format(file)
    if kind is not None:
        return read_picture(file, kind)
    if holds_video(file):
        raise VideoError(f"{path} is a video, not an image; pass it as a video (--video) or save one frame of it")
    raise VideoError(f"cannot read {path} as an image: {DAMAGED}")


def read_metadata(path: str | Path) -> dict[str, object]:
    """The metadata that `write_video` put into the file, or into the first of a folder of frames; {} if there is none.

    Raises:
        VideoError: no such file, or it cannot be opened.
    """
    path = Path(path)
    if (files := _frame_files(path)) is not None:
        path = files[0]
    kind = picture_format(existing(path))
    text = stream_comment(path) if kind is None else picture_comment(path, kind)
    try:
        metadata = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}  # a comment that somebody else wrote
    return metadata if isinstance(metadata, dict) else {}


def _frame_files(path: Path) -> list[Path] | None:
    with reading(path):
        return frame_files(path)
