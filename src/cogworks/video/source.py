"""Files that are given to be read: what they are, told from their first bytes, and what is refused at once.

The ending of a name is not trusted. What is no regular file (a folder, a pipe, a device that never ends) is never
opened, and neither is what claims more pixels than memory should be spent on.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cogworks.errors import VideoError
from cogworks.video.faults import reading

MAX_IMAGE_PIXELS = 2**27  # 134 million: the largest phones take 108
MAX_VIDEO_PIXELS = 2**25  # of one frame, 34 million: 8K (7680x4320) and no more


@dataclass(frozen=True)
class HeldFile:
    """The bytes of a file that are in memory, and what messages call it: a member of an archive, for example."""

    name: str
    data: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.name


File = Path | HeldFile

_HEAD_BYTES = 64
_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\0\0\0\x0cjP  ", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\1\0", "ICO"),
    *((b"P%d" % digit, "PPM") for digit in range(1, 7)),
)
_HEIC_BRANDS = (b"heic", b"heix", b"mif1", b"msf1")


def existing(path: str | File) -> File:
    """`path`, if it is a file of at least one byte.

    Raises:
        VideoError: there is no such file, or it is a folder, a pipe, a device, or empty.
    """
    if isinstance(path, HeldFile):
        if not path.data:
            raise VideoError(f"{path} is empty (0 bytes); make or fetch it again")
        return path
    path = Path(path)
    try:
        status = os.stat(path)
    except PermissionError as error:
        raise VideoError(f"cannot read {path}: its folder's permissions forbid it; change them") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise VideoError(f"no such file: {path}; check the path") from error
    if stat.S_ISDIR(status.st_mode):
        raise VideoError(f"{path} is a folder; name a file in it, or a folder of numbered png frames for a video")
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(f"{path} is no regular file but a pipe or a device; save it to a file first")
    if status.st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes); make or fetch it again")
    return path


def picture_format(path: File) -> str | None:
    """Pillow's name of the picture format in the file ("HEIC" for one it lacks), None if it is not one.

    Raises:
        VideoError: the file cannot be opened.
    """
    if isinstance(path, HeldFile):
        head = path.data[:_HEAD_BYTES]
    else:
        with reading(path), open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    for start, name in _STARTS:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        if b"avif" in head[8:] or b"avis" in head[8:]:
            return "AVIF"
        return "HEIC" if head[8:12] in _HEIC_BRANDS else None
    return None


def check_pixels(path: File, width: int, height: int, most: int) -> None:
    """Raise `VideoError` if a picture of this size is larger than `most` pixels."""
    if width * height > most:
        raise VideoError(
            f"{path} is {width}x{height} pixels, more than {most // 10**6} million, which this refuses; make it smaller"
        )
