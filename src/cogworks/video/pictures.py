"""Reading through Pillow: still pictures, animations whose frames each last their own time, and folders of png frames.

Transparent parts lie on white paper.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cogworks.errors import VideoError
from cogworks.video.faults import reading
from cogworks.video.frames import MAX_FRAME_BYTES
from cogworks.video.sinks import FPS_KEY
from cogworks.video.source import MAX_IMAGE_PIXELS, File, HeldFile, check_pixels, existing, picture_format

if TYPE_CHECKING:
    from PIL.Image import Image

_log = logging.getLogger(__name__)

ANIMATED = ("GIF", "WEBP")  # formats in which a single picture is a video of one frame, too
_PAGED = ("JPEG", "TIFF")  # formats whose further pictures are previews or pages, not frames
UNTIMED_FPS = 8.0  # of a folder of frames that says nothing: what the published models make
_UNTIMED_MS = 100.0  # of a frame: what browsers take where none is given
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")


def read_picture(path: File, kind: str) -> NDArray[np.uint8]:
    """(H, W, 3) of a picture file in Pillow's format `kind`, turned upright by its EXIF orientation.

    Raises:
        VideoError: it is an animation, too large, or damaged.
    """
    from PIL import ImageOps

    with reading(path, "an image"), _opened(path, kind) as image:
        if kind not in _PAGED and getattr(image, "n_frames", 1) > 1:
            raise VideoError(f"{path} is an animation, not an image; pass it as a video (--video) or pick one frame")
        return _rgb(path, ImageOps.exif_transpose(image))


def is_still(path: File, kind: str) -> bool:
    """Whether a picture file in Pillow's format `kind` holds one picture, and no animation.

    Raises:
        VideoError: it is too large, or damaged.
    """
    with reading(path, "an image"), _opened(path, kind) as image:
        return kind in _PAGED or getattr(image, "n_frames", 1) == 1


def read_animation(path: File, kind: str, max_frames: int | None) -> tuple[NDArray[np.uint8], float]:
    """Frames (T, H, W, 3) and rate of an animation, sampled at the rate of its shortest frames.

    Raises:
        VideoError: it is a still picture of a format that is not animated, too large, or damaged.
    """
    from PIL import ImageSequence

    with reading(path, "a video"), _opened(path, kind) as image:
        if kind in _PAGED or (kind not in ANIMATED and getattr(image, "n_frames", 1) == 1):
            raise VideoError(f"{path} is an image, not a video; pass it as an image (--image)")
        pictures: list[NDArray[np.uint8]] = []
        milliseconds: list[float] = []
        decoded = 0
        for picture in ImageSequence.Iterator(image):
            check_pixels(path, *picture.size, MAX_IMAGE_PIXELS)
            decoded += 3 * picture.width * picture.height
            check_bytes(path, decoded)  # also of pictures that are not kept, for the sake of time
            picture.load()
            milliseconds.append(float(picture.info.get("duration") or _UNTIMED_MS))
            if max_frames is None or len(pictures) < max_frames:
                pictures.append(_rgb(path, picture))
        # Writers round a frame's time to ticks, and store a picture that does not change as one long frame.
        lasts = np.asarray(milliseconds)
        one_frame = lasts[lasts < 1.5 * lasts.min()].mean()
        repeats = np.round(lasts / one_frame).astype(int)
        most = MAX_FRAME_BYTES // pictures[0].nbytes + 1 if max_frames is None else max_frames
        shown = np.repeat(np.arange(len(pictures)), np.minimum(repeats, most)[: len(pictures)])[:max_frames]
        check_bytes(path, len(shown) * pictures[0].nbytes)
        return np.stack(pictures)[shown], float(repeats.sum() * 1000 / lasts.sum())


def read_folder(path: Path, files: list[Path], max_frames: int | None) -> tuple[NDArray[np.uint8], float]:
    """Frames (T, H, W, 3) of the png `files`, and the rate that the first one tells.

    Raises:
        VideoError: a file that is no png, frames of different sizes, or more than may be held.
    """
    fps = _told_fps(files[0])
    if fps is None:
        fps = UNTIMED_FPS
        _log.warning("%s tells no frame rate: taken as %g frames a second", path, fps)
    frames: list[NDArray[np.uint8]] = []
    for file in files[:max_frames]:
        if picture_format(existing(file)) != "PNG":
            raise VideoError(f"{file} is no png; a folder of frames holds nothing else under their names")
        frames.append(read_picture(file, "PNG"))
        check_bytes(path, len(frames) * frames[0].nbytes)
        if frames[-1].shape != frames[0].shape:
            raise VideoError(f"{file} has another size than the frames before it; make all of one size")
    return np.stack(frames), fps


def picture_comment(path: File, kind: str) -> str:
    """The text in the file's comment field, "" if there is none."""
    with reading(path, "an image"), _opened(path, kind) as image:
        if kind == "PNG":
            image.load()  # a png's text may follow its pixels
        found = image.info.get("comment") or image.info.get("Comment") or image.info.get("xmp") or ""
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)


def check_bytes(path: File, decoded: int) -> None:
    """Raise `VideoError` if a video is `decoded` bytes or more, and that is more than one may hold."""
    if decoded > MAX_FRAME_BYTES:
        raise VideoError(
            f"{path} is more than {MAX_FRAME_BYTES >> 30} GiB of frames; read fewer (--frames) or make it smaller"
        )


@contextlib.contextmanager
def _opened(path: File, kind: str) -> Iterator[Image]:
    """The picture, known to be small enough before a pixel is decoded."""
    from PIL import Image

    if kind not in Image.OPEN:
        Image.preinit()
    if kind not in Image.OPEN:
        Image.init()
    if kind not in Image.OPEN:
        raise VideoError(f"{path} is a {kind} picture, which this cannot read; convert it to png or jpeg")
    try:
        opened = Image.open(io.BytesIO(path.data) if isinstance(path, HeldFile) else path, formats=(kind,))
    except Image.DecompressionBombError as error:
        raise VideoError(
            f"{path} is more than the {MAX_IMAGE_PIXELS // 10**6} million pixels this reads; make it smaller first"
        ) from error
    with opened:
        check_pixels(path, *opened.size, MAX_IMAGE_PIXELS)
        yield opened


def _rgb(path: File, image: Image) -> NDArray[np.uint8]:
    from PIL import Image

    if image.mode.startswith("I"):  # gray of 16 bits, which Pillow would cut at 255
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise VideoError(f"{path} has 32 bits a pixel and no known white; save it with 8 or 16")
        return np.repeat(((levels + 128) // 257).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode == "F":
        raise VideoError(f"{path} has floating-point numbers and no known white; save it with 8 or 16 bits")
    if image.mode not in _ALPHA_MODES and "transparency" not in image.info:
        return np.array(image.convert("RGB"))
    transparent = image.convert("RGBA")
    paper = Image.new("RGBA", transparent.size, "white")
    return np.array(Image.alpha_composite(paper, transparent).convert("RGB"))


def _told_fps(path: File) -> float | None:
    with reading(path, "an image"), _opened(path, "PNG") as image:
        text = image.info.get(FPS_KEY)
    try:
        fps = float(text) if isinstance(text, str) else 0.0
    except ValueError:
        return None
    return fps if 0 < fps < float("inf") else None
