"""The file-side type: `Video`, frames and their rate.

Letters: T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cogworks.errors import VideoError


@dataclass(frozen=True, eq=False)
class Video:
    """Frames (T, H, W, 3), uint8 RGB, shown at `fps` frames a second. T is at least 1."""

    frames: NDArray[np.uint8]
    fps: float

    def __post_init__(self) -> None:
        check_frames(self.frames)
        if not 0 < self.fps < float("inf"):
            raise VideoError(f"a video needs a positive frame rate, got {self.fps} frames a second")

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    @property
    def height(self) -> int:
        return self.frames.shape[1]

    @property
    def width(self) -> int:
        return self.frames.shape[2]

    @property
    def duration(self) -> float:
        """Seconds from the first frame's start to the last frame's end."""
        return self.num_frames / self.fps

    def save(self, path: str | Path, metadata: Mapping[str, object] | None = None) -> None:
        """Write to `path`; its ending picks the format. See `cogworks.video.write_video`."""
        from cogworks.video.write import write_video

        write_video(path, self, metadata)


def check_frames(frames: NDArray[np.uint8]) -> None:
    """Raise `VideoError` unless `frames` is (T, H, W, 3) uint8 with nothing empty."""
    shape: tuple[int, ...] = getattr(frames, "shape", ())
    if len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise VideoError(f"frames must be an array (frames, height, width, 3) with nothing empty, got shape {shape}")
    if frames.dtype != np.uint8:
        raise VideoError(f"frames must be uint8 in 0..255, got {frames.dtype}; convert pixels with to_frames")
