"""Writing video files, whole or not at all.

The path's ending picks the format: .mp4 (H.264 in yuv420p, BT.709, the index first, so that it plays everywhere and
starts before it is loaded), .webm (VP9), .gif, .webp (animated) or .png (a contact sheet). A name with a printf count,
as in frames/%04d.png, is a folder of png frames.

Everything goes to a hidden name ending in .part (of a file: .part and its ending) in the same folder, which takes the
final name when all went well and is removed when anything did not. A process that is killed can leave such a part,
never half a file under the final name.

H.264 in yuv420p holds only even sizes: an odd one gets a copy of its last row or column, so it reads back one larger.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from cogworks.errors import VideoError
from cogworks.video.faults import writing
from cogworks.video.folder import FramePattern
from cogworks.video.frames import check_frames
from cogworks.video.sinks import Sink, open_sink

if TYPE_CHECKING:
    from cogworks.video.video import Video

FORMATS = (".mp4", ".webm", ".gif", ".webp", ".png")
MIN_FPS, MAX_FPS = 0.01, 1000  # what every format can count

_NAME_KEPT = 40  # characters of the final name in that of its part: both are to fit where names end at 255 bytes


def write_video(
    path: str | Path, video: Video, metadata: Mapping[str, object] | None = None, *, replace: bool = False
) -> None:
    """Write `video` to `path`. A file that was there is replaced.

    Args:
        path: ends in .mp4, .webm, .gif, .webp or .png, or is a pattern as frames/%04d.png; missing folders are made.
        metadata: anything JSON can hold; read it back with `read_metadata`.
        replace: of a pattern: replace the frames in its folder. A folder that holds anything else is never replaced.

    Raises:
        VideoError: unknown ending, a rate no file can have, a folder in use, or the file cannot be written.
    """
    with StreamingWriter(path, video.fps, metadata, replace=replace) as writer:
        writer.add(video.frames)


def check_output(path: str | Path, *, replace: bool = False) -> None:
    """Raise the `VideoError` that `write_video` would meet at once: ending, folder, permissions. Changes nothing."""
    path = Path(path)
    pattern = _checked_pattern(path)
    with writing(path):
        if pattern is not None:
            _check_folder(pattern, replace=replace)
        elif path.is_dir():
            raise VideoError(f"cannot write {path}: a folder has that name; choose another name")
        home = _home(path, pattern)
        nearest = next(folder for folder in (home, *home.parents) if os.path.lexists(folder))
        if not nearest.is_dir():
            raise VideoError(f"cannot write {path}: {nearest} is a file, not a folder; choose another path")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise VideoError(f"cannot write {path}: {nearest} may not be written; choose another folder")


class StreamingWriter:
    """Writes frames as they come: `with StreamingWriter(path, fps) as writer: writer.add(frames)`, again and again.

    mp4, webm and a folder of frames are encoded on the way; the other formats need all frames and encode at the end.
    The file appears when the block ends; if the block raises, nothing is left and an older file of that name is
    untouched.

    Raises:
        VideoError: unknown ending, a rate no file can have, no frame added, frames of different sizes, a folder in
            use, or the file cannot be written.
    """

    def __init__(
        self, path: str | Path, fps: float, metadata: Mapping[str, object] | None = None, *, replace: bool = False
    ) -> None:
        self.path = Path(path)
        self._fps = fps
        self._comment = _as_text(metadata) if metadata else ""
        self._sink: Sink | None = None
        self._size: tuple[int, ...] | None = None
        self._pattern, self._replace = _checked_pattern(self.path), replace
        if not MIN_FPS <= fps <= MAX_FPS:
            raise VideoError(
                f"a file is shown at {MIN_FPS:g} to {MAX_FPS} frames a second, got {fps}; choose another rate"
            )
        name = self.path.stem if self._pattern is None else self._pattern.folder.name
        ending = self.path.suffix.lower() if self._pattern is None else ""
        home = _home(self.path, self._pattern)
        self._part = home / f".{name[:_NAME_KEPT]}.{secrets.token_hex(4)}.part{ending}"
        self._made: list[Path] = []  # folders, innermost first

    def __enter__(self) -> Self:
        return self

    def add(self, frames: NDArray[np.uint8]) -> None:
        """Append frames (T, H, W, 3) uint8, all of one size."""
        check_frames(frames)
        size = frames.shape[1:3]
        if self._size not in (None, size):
            raise VideoError(f"all frames of a file have one size: it began with {self._size}, now came {size}")
        with writing(self.path):
            if self._sink is None:
                if self._pattern is not None:
                    _check_folder(self._pattern, replace=self._replace)
                home = self._part.parent
                self._made = [folder for folder in (home, *home.parents) if not folder.exists()]
                home.mkdir(parents=True, exist_ok=True)
                self._sink = open_sink(self._part, self._pattern, self._fps, size, self._comment)
                self._size = size
            self._sink.add(frames)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        done = False
        try:
            with writing(self.path):
                if kind is not None:
                    if self._sink is not None:
                        with contextlib.suppress(Exception):  # what the block raised says more
                            self._sink.close(keep=False)
                    return
                if self._sink is None:
                    raise VideoError(f"cannot write {self.path}: no frame was added")
                self._sink.close(keep=True)
                self._take_final_name()
                done = True
        finally:
            if not done:
                self._remove()

    def _take_final_name(self) -> None:
        """A folder of earlier frames steps aside, and comes back if the new one cannot take its place."""
        if self._pattern is None:
            _flush(self._part)
            os.replace(self._part, self.path)
            return
        for frame in self._part.iterdir():
            _flush(frame)
        folder = self._pattern.folder
        older = self._part.with_suffix(".older")
        if not folder.exists():
            os.rename(self._part, folder)
            return
        _check_folder(self._pattern, replace=self._replace)  # again: encoding took its time
        os.rename(folder, older)
        try:
            os.rename(self._part, folder)
        except BaseException:
            os.rename(older, folder)
            raise
        shutil.rmtree(older, ignore_errors=True)

    def _remove(self) -> None:
        """What the system does not let go stays, hidden; the reason why the file failed is what counts."""
        if self._pattern is None:
            with contextlib.suppress(OSError):  # its folder could not be made
                self._part.unlink()
        else:
            shutil.rmtree(self._part, ignore_errors=True)
        for folder in self._made:
            with contextlib.suppress(OSError):  # never made, or somebody put a file there
                folder.rmdir()


def _as_text(metadata: Mapping[str, object]) -> str:
    text = json.dumps(metadata, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, from a file name that is not UTF-8: escaped, it survives
        return json.dumps(metadata)
    return text


def _checked_pattern(path: Path) -> FramePattern | None:
    if path.suffix.lower() not in FORMATS:
        raise VideoError(
            f"cannot write {path.name!r}: the name must end in {', '.join(FORMATS)}, or be frames/%04d.png for a folder"
        )
    return FramePattern.parse(path)


def _home(path: Path, pattern: FramePattern | None) -> Path:
    """The folder in which the file, or the folder of frames, appears."""
    return path.parent if pattern is None else pattern.folder.parent


def _check_folder(pattern: FramePattern, *, replace: bool) -> None:
    """Refuse a folder in use: only frames of this very pattern may be replaced, and only where that is asked."""
    folder = pattern.folder
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise VideoError(f"cannot write frames into {folder}: it is a file or a link; choose another folder")
    entries = set(folder.iterdir())
    if entries - set(pattern.files()):
        raise VideoError(f"cannot write frames into {folder}: it holds other files; choose a new folder")
    if entries and not replace:
        raise VideoError(f"cannot write frames into {folder}: it holds frames; choose a new folder or replace them")


def _flush(path: Path) -> None:
    """Wait until the file is on the disk: some report only now that they are full, and power may fail."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
