"""A folder of png frames, named by a pattern: `frames/%04d.png` is the folder `frames` with 0000.png, 0001.png, ...

The count is printf's: %d, or %04d for four digits with leading zeros. It begins at 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cogworks.errors import VideoError

_COUNT = re.compile(r"%(0\d{1,2})?d")


@dataclass(frozen=True)
class FramePattern:
    """Where the frames lie: a folder, and what stands before and after the count in their names."""

    folder: Path
    before: str
    digits: int
    after: str

    @classmethod
    def parse(cls, path: Path) -> Self | None:
        """The pattern a path is; None if it holds no count or does not end in .png.

        Raises:
            VideoError: a count in the folder's name, two counts, or no folder in front.
        """
        counts = _COUNT.findall(str(path))
        if not counts or path.suffix.lower() != ".png":
            return None
        before, *rest = _COUNT.split(path.name)
        if len(counts) > 1 or len(rest) != 2:
            raise VideoError(f"{path}: a pattern has one count, in the file's name, for example frames/%04d.png")
        if path.parent.resolve() in (Path.cwd(), *Path.cwd().parents):
            raise VideoError(f"{path}: frames need a folder of their own, for example frames/%04d.png")
        return cls(path.parent, before, int(rest[0] or 0), rest[1])

    def name(self, index: int) -> str:
        return f"{self.before}{index:0{self.digits}d}{self.after}"

    def files(self) -> list[Path]:
        """The frames in the folder by their count, whatever number they begin at."""
        name = re.compile(re.escape(self.before) + r"(\d+)" + re.escape(self.after))
        matches = [(int(found[1]), path) for path in self.folder.iterdir() if (found := name.fullmatch(path.name))]
        return [path for _, path in sorted(matches)]


def frame_files(path: Path) -> list[Path] | None:
    """The png frames that a pattern or a folder names, in order; None if `path` is neither.

    A folder's frames are those whose names are equal but for one number: the last in the name.

    Raises:
        VideoError: no frames there, or a folder with several rows of them.
    """
    pattern = None if path.is_file() else FramePattern.parse(path)
    if pattern is None and not path.is_dir():
        return None
    folder = path if pattern is None else pattern.folder
    if pattern is not None and folder.is_dir():
        files = pattern.files()
    elif folder.is_dir():
        files = _only_row(folder)
    else:
        raise VideoError(f"no such folder: {folder}; check the path")
    if not files:
        raise VideoError(
            f"{path} is a folder without numbered png frames; name a file, or a pattern as in frames/%04d.png"
        )
    return files


def _only_row(folder: Path) -> list[Path]:
    rows: dict[tuple[str, str], list[tuple[int, Path]]] = {}
    for path in folder.iterdir():
        found = re.fullmatch(r"(.*?)(\d+)(\D*\.png)", path.name, re.IGNORECASE)
        if found:
            rows.setdefault((found[1], found[3]), []).append((int(found[2]), path))
    if len(rows) > 1:
        raise VideoError(f"{folder} holds several rows of png frames; name one by its pattern, as in frames/%04d.png")
    return [path for row in rows.values() for _, path in sorted(row)]
