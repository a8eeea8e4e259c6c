"""Little clips on the disk, each frame of which says its number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cogworks.video import Video

STEP = 8  # levels between one frame and the next


def numbered(num_frames: int = 9, height: int = 32, width: int = 48) -> NDArray[np.uint8]:
    """Flat frames whose level is their number times `STEP`; `frame_numbers` reads it back."""
    levels = (np.arange(num_frames) * STEP + STEP // 2).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).copy()


def frame_numbers(frames: NDArray[np.uint8]) -> list[int]:
    return (frames.mean((1, 2, 3)) // STEP).astype(int).tolist()


def save_clip(
    path: Path, num_frames: int = 9, height: int = 32, width: int = 48, fps: float = 8, caption: str | None = None
) -> Path:
    """Write numbered frames, and a caption beside them if one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Video(numbered(num_frames, height, width), fps).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def touch(path: Path, content: str | bytes = b"a clip") -> Path:
    """A file that is only listed, never decoded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
