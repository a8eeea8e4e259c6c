"""What the readers of every kind of source share: endings, texts, folders, and the list that is being made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from cogworks.data.clip import Clip, ClipFault, Clips, Span, one_line, printable
from cogworks.errors import DataError

VIDEO_ENDINGS = frozenset(
    (".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".webm", ".wmv")
)
PICTURE_ENDINGS = frozenset((".avif", ".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
CLIP_ENDINGS = VIDEO_ENDINGS | PICTURE_ENDINGS
MAX_TEXT_BYTES = 2**26  # of one caption file: 64 MiB is a video under a wrong name
_LONGEST_NAME = 200  # characters of a name in a message


@dataclass
class Listing:
    """Clips and faults as they are found. A name that comes twice gets a number, so that names are unique."""

    items: list[Clip] = field(default_factory=list)
    faults: list[ClipFault] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)

    def add(
        self,
        name: str,
        caption: str,
        file: Path,
        member: str | None = None,
        span: Span | None = None,
        image: Path | None = None,
    ) -> None:
        unique, number = name, 1
        while unique in self._names:
            number += 1
            unique = f"{name}#{number}"
        self._names.add(unique)
        self.items.append(Clip(unique, one_line(caption), file, member, span, image))

    def fault(self, name: str, why: str) -> None:
        shown = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
        self.faults.append(ClipFault(shown, why))

    def extend(self, clips: Clips, before: str) -> None:
        """All of another list, with a name in front of theirs."""
        for clip in clips.items:
            self.items.append(replace(clip, name=f"{before}/{clip.name}"))
        self.faults.extend(ClipFault(f"{before}/{name}" if name else before, why) for name, why in clips.faults)

    def done(self) -> Clips:
        return Clips(tuple(self.items), tuple(self.faults))


def files_below(folder: Path, faults: list[ClipFault]) -> Iterator[Path]:
    """Every file below a folder in the order of their paths, without hidden ones; links to folders are followed once.

    Folders that cannot be listed are added to `faults`.
    """

    def note(error: OSError) -> None:
        faults.append(ClipFault(printable(error.filename or folder), f"cannot be listed: {error.strerror or error}"))

    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, onerror=note, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen and status.st_ino:  # some systems number nothing
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without the mark in front.

    Raises:
        DataError: it cannot be read, is another thing than text in UTF-8, or is too large for a caption.
    """
    return decode_text(read_bytes(path, MAX_TEXT_BYTES), str(path))


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """What a file holds.

    Raises:
        DataError: it is no regular file, cannot be read, or holds more than `most` bytes.
    """
    try:
        if not path.is_file():  # a pipe or a device would be read without end
            raise DataError(f"{printable(path)} is no file")
        if most is not None and path.stat().st_size > most:
            raise DataError(f"{printable(path)} is larger than {most >> 20} MiB, too much for a caption")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read {printable(path)}: {reason}") from None


def decode_text(data: bytes, name: str) -> str:
    """Text in UTF-8.

    Raises:
        DataError: it is not.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{printable(name)} is not text in UTF-8; save it as such") from None


def relative_name(path: Path, folder: Path) -> str:
    return printable(path.relative_to(folder))


def ending(name: str | Path) -> str:
    return PurePosixPath(name).suffix.lower()


def why_missing(path: Path) -> str | None:
    """Why there is no clip at a path that somebody wrote; None if there is one."""
    try:
        if path.is_file():
            return None
        if path.is_dir():
            return "is a folder; name a file"
        return "no regular file" if path.exists() else "no such file"
    except (OSError, ValueError) as error:
        return f"cannot be looked at: {getattr(error, 'strerror', None) or error}"
