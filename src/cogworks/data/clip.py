"""One captioned clip, and what a source of them holds."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cogworks.errors import VideoError
from cogworks.video.chosen import STILL_FPS, Extent, measure_video
from cogworks.video.faults import reading
from cogworks.video.pictures import is_still, read_picture
from cogworks.video.read import read_video
from cogworks.video.source import File, HeldFile, existing, picture_format
from cogworks.video.video import Video

_CHUNK = 2**20  # bytes read at once for a hash


class Span(NamedTuple):
    """Where in a shard a member's bytes lie."""

    offset: int
    size: int


@dataclass(frozen=True)
class Clip:
    """A video, or a picture as a video of one frame, and its caption.

    Attributes:
        name: unique in its source and the same at every reading: a path relative to the source, or "shard.tar/key".
        caption: as written, without white space at its ends; "" where somebody wrote an empty one.
        file: the file, or the shard that it is in.
        member: its name inside the shard; None for a file.
        span: where in the shard its bytes are; None for a file.
        image: a conditioning image of its own; None stands for the first frame.
    """

    name: str
    caption: str
    file: Path
    member: str | None = None
    span: Span | None = None
    image: Path | None = None

    def open(self) -> File:
        """What `cogworks.video` reads: the path, or the member's bytes; nothing is unpacked to the disk.

        Raises:
            VideoError: the shard cannot be read, or is shorter than when it was listed.
        """
        if self.span is None:
            return self.file
        with reading(self.file, "a tar shard"), open(self.file, "rb") as shard:
            shard.seek(self.span.offset)
            data = shard.read(self.span.size)
        if len(data) < self.span.size:
            raise VideoError(f"{self.name}: {self.file} is shorter than when it was listed; make or fetch it again")
        return HeldFile(self.name, data)

    def read(self) -> Video:
        """All frames; a still picture is one.

        Raises:
            VideoError: it cannot be read.
        """
        file = existing(self.open())
        kind = picture_format(file)
        if kind is not None and is_still(file, kind):
            return Video(read_picture(file, kind)[None], STILL_FPS)
        return read_video(file)

    def measure(self) -> Extent:
        """How long and large it is, decoding one frame.

        Raises:
            VideoError: it cannot be read.
        """
        return measure_video(self.open())

    def content_hash(self) -> str:
        """SHA-256, in hexadecimal, of the bytes of the video file: the same wherever a copy of it lies.

        Raises:
            VideoError: it cannot be read.
        """
        file = existing(self.open())
        if isinstance(file, HeldFile):
            return hashlib.sha256(file.data).hexdigest()
        digest = hashlib.sha256()
        with reading(file), open(file, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()


class ClipFault(NamedTuple):
    """What of a source cannot be used: a clip without caption, a caption without clip, a file that is not there."""

    name: str
    why: str


@dataclass(frozen=True)
class Clips:
    """What a source holds.

    Attributes:
        items: the clips, in an order that does not change.
        faults: what was found beside them. A fault never changes which caption another clip gets.
    """

    items: tuple[Clip, ...]
    faults: tuple[ClipFault, ...] = ()

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of all names, captions, sizes of files in bytes and names of conditioning images.

        Contents are not read: it changes when clips come, go or are made anew with another size, or are captioned
        anew, and stays when the folder moves.
        """
        digest = hashlib.sha256()
        for clip in self.items:
            size = clip.span.size if clip.span is not None else _size(clip.file)
            image = None if clip.image is None else (clip.image.name, _size(clip.image))
            digest.update(repr((clip.name, clip.caption, size, image)).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def printable(name: str | os.PathLike[str]) -> str:
    """A file's name as text that can be printed and written as UTF-8, whatever its bytes are; with forward slashes."""
    text = Path(name).as_posix().encode("utf-8", "backslashreplace").decode()
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def one_line(text: str) -> str:
    """A caption without line breaks, and without white space at its ends."""
    return " ".join(text.split())


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return None
